-- SPDX-License-Identifier: Apache-2.0
--- `fcvm fork-server SOCKET`: makes supervisors by fork, each with everything loaded already.
--
-- A server of clones (lua/fcvm/serve.lua) starts one beside it; lua/fcvm/supervised.lua asks it. What is loaded here is what
-- needs no event loop: libraries are linked and Lua's files compiled, and each new process runs them itself. luv is linked
-- too, but not opened: its loop would be one for all.
local M = {}

-- Compiles a module and those that it requires where it begins, for `require` to find.
local function prepare(name)
  if package.preload[name] or package.loaded[name] then return end
  local path = package.searchpath(name, package.path)
  local chunk = path and loadfile(path)
  if not chunk then
    local library = package.searchpath(name, package.cpath)
    if library then package.loadlib(library, "*") end
    return
  end
  package.preload[name] = chunk
  for line in io.lines(path) do
    local other = line:match '^local .*require%s*%(?%s*"([^"]+)"'
    if other then prepare(other) end
  end
end

--- Serves until it is killed, as it is with the process that started it. Returns a process's exit status.
function M.main(argv)
  local core = require "fcvm.core"
  prepare "fcvm.supervisor"
  core.http.prepare() -- where that fails, each request says it
  collectgarbage()
  local forked, err = core.proc.fork_serve(argv[2] or "")
  if not forked then
    io.stderr:write("fcvm: fork-server: ", tostring(err.message), "\n")
    return 71
  end
  return require("fcvm.supervisor").main()
end

return M
