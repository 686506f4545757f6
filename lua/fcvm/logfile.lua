-- SPDX-License-Identifier: Apache-2.0
--- What a container wrote, kept beside its VM for `fcvm logs`: frames of the guest's protocol (its OUTPUT), so that both
-- streams come back byte for byte. Two files of at most 16 MiB: the older one goes when the newer is full.
local uv = require "luv"
local core = require "fcvm.core"
local errors = require "fcvm.errors"

local M = {}
M.__index = M

local FILE_MAX = 16 << 20
local CHUNK = 64 << 10

local function path_of(directory) return directory .. "/container.log" end

--- Begins the log in a VM's directory. By its supervisor.
function M.create(directory)
  local path = path_of(directory)
  local fd = errors.check_uv("create", path, uv.fs_open(path, "ax", 384))
  return setmetatable({ fd = fd, path = path, size = 0 }, M)
end

--- Adds what came on `stream` (1 or 2). A log that cannot be written is given up, said by its second result, once.
function M:append(number, data)
  if not self.fd then return end
  for at = 1, #data, CHUNK do
    local frame = core.guest.encode(core.guest.types.OUTPUT, number, data:sub(at, at + CHUNK - 1))
    if not uv.fs_write(self.fd, frame, -1) then
      uv.fs_close(self.fd)
      self.fd = nil
      return
    end
    self.size = self.size + #frame
  end
  if self.size < FILE_MAX then return end
  uv.fs_close(self.fd)
  uv.fs_rename(self.path, self.path .. ".1")
  self.fd, self.size = uv.fs_open(self.path, "ax", 384), 0
end

--- Calls `fn(stream, data)` for all that is there, oldest first. With `follow()`, a function that waits for more and
-- returns false at the end, it goes on.
function M.read(directory, fn, follow)
  local decoder = core.guest.decoder()
  local function drain(fd)
    while true do
      local chunk = uv.fs_read(fd, CHUNK, -1)
      if not chunk or chunk == "" then return end
      decoder:feed(chunk)
      local kind, number, payload = decoder:next()
      while kind do
        fn(number, payload)
        kind, number, payload = decoder:next()
      end
    end
  end
  local older = uv.fs_open(path_of(directory) .. ".1", "r", 0)
  if older then
    drain(older)
    uv.fs_close(older)
  end
  local fd = uv.fs_open(path_of(directory), "r", 0)
  while fd do
    drain(fd)
    local goes_on = follow and follow()
    local open, now = uv.fs_fstat(fd), uv.fs_stat(path_of(directory))
    if now and open.ino ~= now.ino then
      -- The file was full and renamed meanwhile.
      drain(fd)
      uv.fs_close(fd)
      fd = uv.fs_open(path_of(directory), "r", 0)
    elseif not goes_on then
      drain(fd)
      break
    end
  end
  if fd then uv.fs_close(fd) end
end

return M
