"""Each candidate's predictor: quality, response length, uncertainty."""
