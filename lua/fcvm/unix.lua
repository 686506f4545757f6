-- SPDX-License-Identifier: Apache-2.0
--- Unix sockets by directory and name, however long the directory's path is.
local uv = require "luv"
local errors = require "fcvm.errors"
local task = require "fcvm.task"

local M = {}

local PATH_MAX = 107 -- of sockaddr_un, without its NUL

--- Calls `fn(path)` with a path of the socket `name` in `dir` that fits an address: where the real one is too long, one by
-- way of a descriptor of the directory. Returns what it returned. In a task.
function M.with_path(dir, name, fn)
  local path = dir .. "/" .. name
  if #path <= PATH_MAX then return fn(path) end
  local fd = errors.check_uv("open", dir, uv.fs_open(dir, "r", 0))
  local out = table.pack(pcall(fn, ("/proc/self/fd/%d/%s"):format(fd, name)))
  uv.fs_close(fd)
  if not out[1] then error(out[2], 0) end
  return table.unpack(out, 2, out.n)
end

--- Connects to the socket; returns luv's pipe, or nil and luv's text ("ECONNREFUSED: ..."). Never follows a link: what
-- may stand there in its place is another's socket.
function M.connect(dir, name)
  return M.with_path(dir, name, function(path)
    local stat = uv.fs_lstat(path)
    if not stat or stat.type ~= "socket" then return nil, "ENOENT: there is no such socket" end
    local pipe = uv.new_pipe(false)
    local ok, failure = pcall(task.await, function(resume)
      local began, text = pipe:connect(path, resume)
      if not began then resume(text) end
    end)
    if ok and not failure then return pipe end
    if not pipe:is_closing() then pipe:close() end
    if not ok then error(failure, 0) end
    return nil, tostring(failure)
  end)
end

--- Listens on the socket, mode 0600 unless `mode` says otherwise; `on_connection(pipe)` gets each peer, in no task. Returns luv's
-- handle, which the caller closes; the file is the caller's to remove.
function M.listen(dir, name, on_connection, mode)
  local server = uv.new_pipe(false)
  local ok, failure = pcall(M.with_path, dir, name, function(path)
    errors.check_uv("listen", dir .. "/" .. name, server:bind(path))
    errors.check_uv("set mode", path, uv.fs_chmod(path, mode or 384))
    errors.check_uv("listen", dir .. "/" .. name, server:listen(128, function()
      local pipe = uv.new_pipe(false)
      if server:accept(pipe) then on_connection(pipe) else pipe:close() end
    end))
  end)
  if ok then return server end
  server:close()
  error(failure, 0)
end

return M
