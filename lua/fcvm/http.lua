-- SPDX-License-Identifier: Apache-2.0
--- HTTP requests and Firecracker's API as calls that wait in their task.
local core = require "fcvm.core"
local errors = require "fcvm.errors"
local task = require "fcvm.task"

local M = {}

-- Steps a request of the core until it has ended. Returns what its last step gave; raises its error.
local function finish(request, err, what)
  if not request then error(errors.new(err), 0) end
  local ok, first, second = pcall(function()
    while true do
      local result, more = request:step()
      if result then return result, more end
      if more then error(errors.new(more), 0) end
      task.readable(request:fileno(), nil, what)
    end
  end)
  request:close()
  if not ok then error(first, 0) end
  return first, second
end

--- Makes a request: options as of fcvm.core.http.request, but that `socket` is a function that makes one. Returns {status=,
-- headers=, body=}; raises.
function M.request(options)
  local make, fd = options.socket, nil
  if make then
    fd = make()
    options.socket = fd
  end
  local request, err = core.http.request(options)
  if fd then core.proc.close(fd) end
  return (finish(request, err, options.url))
end

--- Calls Firecracker's API on `socket`. `json` is the body's text or nil. Returns {status=, headers=, body=}; raises
-- Firecracker's own words.
function M.firecracker(socket, method, path, json, timeout)
  local request, err = core.vmm.request(socket, method, path, json, timeout or 10)
  return finish(request, err, path)
end

return M
