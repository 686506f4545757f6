-- SPDX-License-Identifier: Apache-2.0
--- Where fcvm keeps things: FCVM_DATA_DIR (or --data-dir), by default /mnt/fcvm-btrfs where that is mounted, else
-- /var/lib/fcvm, and $XDG_DATA_HOME/fcvm without root; sockets and namespaces in /run/fcvm or $XDG_RUNTIME_DIR/fcvm.
local uv = require "luv"
local errors = require "fcvm.errors"

local M = {}
local chosen

local function is_mount(path)
  local here, above = uv.fs_stat(path), uv.fs_stat(path .. "/..")
  return here and above and here.dev ~= above.dev
end

local function default_data()
  if uv.getuid() ~= 0 then
    return (os.getenv "XDG_DATA_HOME" or uv.os_homedir() .. "/.local/share") .. "/fcvm"
  end
  return is_mount "/mnt/fcvm-btrfs" and "/mnt/fcvm-btrfs" or "/var/lib/fcvm"
end

--- Uses `dir` as the data directory from now on, in this process and those it starts.
function M.set_data(dir)
  if dir:sub(1, 1) ~= "/" then dir = uv.cwd() .. "/" .. dir end
  chosen = dir:gsub("/+$", "")
  uv.os_setenv("FCVM_DATA_DIR", chosen)
end

--- The data directory (not made by this call). It is always absolute.
function M.data()
  if not chosen then
    local given = os.getenv "FCVM_DATA_DIR"
    if given and given ~= "" then M.set_data(given) else chosen = default_data() end
  end
  return chosen
end

--- The directory of sockets and namespaces, which a restart of the host empties.
function M.run()
  if uv.getuid() == 0 then return "/run/fcvm" end
  return (os.getenv "XDG_RUNTIME_DIR" or "/tmp/fcvm-" .. uv.getuid()) .. "/fcvm"
end

for _, name in ipairs { "kernels", "rootfs", "images", "state", "snapshots", "serves", "bin" } do
  --- The part of the data directory with this name.
  M[name] = function() return M.data() .. "/" .. name end
end

--- VMs' own directories, one a VM: <data>/vm-disks/<vm-id>.
function M.disks() return M.data() .. "/vm-disks" end

--- The directory of a VM.
function M.vm(id) return M.disks() .. "/" .. id end

--- Firecracker's root in it, whose place the jailer fixes.
function M.vm_root(id) return M.vm(id) .. "/firecracker/" .. id .. "/root" end

--- Makes `dir` and what is missing above it, with `mode` (0700). Returns it.
function M.ensure(dir, mode)
  local ok, text, name = uv.fs_mkdir(dir, mode or 448)
  if not ok and name == "ENOENT" then
    M.ensure(dir:match("^(.*)/[^/]+$"), mode)
    ok, text, name = uv.fs_mkdir(dir, mode or 448)
  end
  if not ok and name ~= "EEXIST" then
    errors.raise { op = "make directory", subject = dir, name = name, message = text:gsub("^%u+: ", ""),
      status = errors.status.cannot_create, hint = "choose another by --data-dir or FCVM_DATA_DIR" }
  end
  return dir
end

--- The tree that this fcvm was installed to: PREFIX of PREFIX/bin/fcvm and PREFIX/share/fcvm/lua. Absolute.
function M.prefix()
  if arg and arg.prefix then return arg.prefix end
  local source = debug.getinfo(1, "S").source:match("^@(.*)/share/fcvm/lua/fcvm/[^/]+$")
  return source or "/usr"
end

--- A program that only fcvm runs, such as fc-agent.
function M.libexec(name) return M.prefix() .. "/libexec/fcvm/" .. name end

return M
