"""The method: arrays, tables and files in, arrays, tables and files out. Imports no other room."""
