-- SPDX-License-Identifier: Apache-2.0
--- The fcvm binary as a test's user sees it. Within a task.
local process = require "fcvm.process"
local task = require "fcvm.task"
local uv = require "luv"

local M = { binary = os.getenv "FCVM_BIN" or "fcvm", top = os.getenv "FCVM_TOP" or uv.cwd() }
M.images = M.top .. "/build/images"

--- Runs `fcvm ARGUMENTS…` to its end; options as of process.run. Returns {status=, signal=, stdout=, stderr=}.
function M.run(options)
  table.insert(options, 1, M.binary)
  options.check, options.contain = false, false
  options.timeout = options.timeout or 240
  return process.run(options)
end

--- Starts `fcvm ARGUMENTS…`. Returns an object with .child, .stdout, .stderr (what has come so far), :wait() and :kill(sig).
-- It ends with the scope.
function M.start(options)
  local core = require "fcvm.core"
  table.insert(options, 1, M.binary)
  local self = { stdout = "", stderr = "" }
  local fds, readers = {}, {}
  for number, name in pairs { [1] = "stdout", [2] = "stderr" } do
    local reader, writer = assert(core.proc.pipe())
    fds[number] = writer
    local pipe = uv.new_pipe(false)
    assert(pipe:open(reader))
    readers[#readers + 1] = pipe
    pipe:read_start(function(_, chunk)
      if chunk then self[name] = self[name] .. chunk else pipe:close() end
    end)
  end
  local child, err = core.proc.spawn { argv = options, fds = fds, session = true }
  for _, fd in pairs(fds) do core.proc.close(fd) end
  assert(child, tostring(err))
  self.child = child
  task.defer(function()
    child:close()
    for _, pipe in ipairs(readers) do
      if not pipe:is_closing() then pipe:close() end
    end
  end)
  function self.wait(_, timeout)
    return task.timeout(timeout or 240, "fcvm to end", process.wait, child)
  end
  function self.kill(_, signal) child:kill(signal) end
  return self
end

--- Waits until `test()` is true, looking every 50 ms, at most `seconds`.
function M.eventually(what, test, seconds)
  task.timeout(seconds or 120, what, function()
    while not test() do task.sleep(0.05) end
  end)
end

return M
