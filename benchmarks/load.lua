-- What wrk sends: the bodies of a file, one a line, in turn. At the end: percentiles, one JSON line.
local bodies, number = {}, 0

function init(arguments)
  for line in io.lines(arguments[1]) do bodies[#bodies + 1] = line end
  number = math.random(#bodies)
end

function request()
  number = number % #bodies + 1
  return wrk.format("POST", nil, { ["content-type"] = "application/json" }, bodies[number])
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "seconds": %f, "failed": %d, "p50": %f, "p95": %f, "p99": %f}\n',
    summary.requests, summary.duration / 1e6,
    errors.status + errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3))
end
