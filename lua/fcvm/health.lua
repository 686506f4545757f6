-- SPDX-License-Identifier: Apache-2.0
--- Health: a VM is healthy when its container answers over HTTP, or, where nothing is asked for, when it runs.
local errors = require "fcvm.errors"
local http = require "fcvm.http"
local task = require "fcvm.task"

local M = {}

local BODY_MAX = 64 << 10 -- of an answer; only its status counts

--- Reads what a user gave: a URL (its host means the VM), or {port=, path=, interval=, timeout=, url=}. Returns
-- {port=, path=, interval=, timeout=, text=} or nil for nil.
function M.read(given)
  if given == nil then return nil end
  local check = type(given) == "string" and { url = given } or errors.options("health", given,
    { url = "string", port = "integer", path = "string", interval = "number", timeout = "number" })
  local port, path = check.port, check.path
  if check.url then
    local scheme, authority, rest = check.url:match "^(%a+)://([^/?#]+)(.*)$"
    if scheme ~= "http" then
      errors.raise { op = "read health check", subject = check.url, name = "EINVAL",
        message = "it is no http:// URL", hint = "--health-check http://localhost:80/" }
    end
    port = port or math.tointeger(tonumber(authority:match ":(%d+)$" or 80))
    path = path or rest
  end
  port = port or 80
  path = path or "/"
  if path:sub(1, 1) ~= "/" then path = "/" .. path end
  if port < 1 or port > 65535 or path:find "[%c ]" then
    errors.raise { op = "read health check", subject = tostring(check.url or port), name = "EINVAL",
      message = "its port or path is not valid" }
  end
  return { port = port, path = path, interval = check.interval or 0.1, timeout = check.timeout or 5,
    text = ("http://localhost:%d%s"):format(port, path) }
end

--- Asks once, at an address and by sockets of network.reach. Returns true, or false and why.
function M.probe(check, address, socket)
  local ok, answer = pcall(http.request, { url = ("http://%s:%d%s"):format(address, check.port, check.path),
    timeout = check.timeout, max_body = BODY_MAX, socket = socket })
  if not ok then
    if type(answer) == "table" and answer.cancelled then error(answer, 0) end
    return false, tostring(answer.message or answer)
  end
  if answer.status < 200 or answer.status >= 400 then return false, "it answered " .. answer.status end
  return true
end

--- Asks again and again in its task; calls `changed("healthy" or "unhealthy", why)` when the answer changes. A first
-- failure says nothing: a container may take its time; one that was healthy is unhealthy after three in a row. What failed while
-- `held()` (a guest that was paused) does not count.
function M.watch(check, changed, held, address, socket)
  local state, failures = "unknown", 0
  while true do
    local before = held()
    local ok, why = M.probe(check, address, socket)
    if ok or not (before or held()) then
      failures = ok and 0 or failures + 1
      local now = ok and "healthy" or (state == "healthy" and failures >= 3 and "unhealthy" or state)
      if now ~= state or not ok then changed(now, why) end
      state = now
    end
    task.sleep(state == "healthy" and math.max(1, check.interval) or check.interval)
  end
end

return M
