-- SPDX-License-Identifier: Apache-2.0
--- The kernel modules that a guest needs, in the order in which they load.
local uv = require "luv"
local errors = require "fcvm.errors"
local workshop = require "fcvm.setup.workshop"

local M = {}

--- What the agent needs of the kernel, built in or as modules: disks, network and vsock over virtio-mmio, containers'
-- file systems. What these depend on comes along.
M.wanted = { "virtio_mmio", "virtio_blk", "virtio_net", "vmw_vsock_virtio_transport", "ext4", "overlay", "squashfs" }

local unpackers = { xz = "xz", zst = "zstd", gz = "gzip" }

local function name_of(path) return (path:match "([^/]+)%.ko[%.%w]*$" or ""):gsub("-", "_") end

local function lines(path)
  local file = io.open(path)
  if not file then return function() end end
  return function()
    local line = file:read "l"
    if not line then file:close() end
    return line
  end
end

--- The paths (below `directory`, which is lib/modules/RELEASE and has modules.dep and modules.builtin) of `wanted` and
-- all that they depend on, each after its dependencies. What is built in is left out; what is missing raises.
function M.order(directory, wanted)
  local by_name, needs, builtin = {}, {}, {}
  for line in lines(directory .. "/modules.builtin") do builtin[name_of(line)] = true end
  for line in lines(directory .. "/modules.dep") do
    local path, rest = line:match "^([^:]+):%s*(.*)$"
    if path then
      by_name[name_of(path)] = path
      local list = {}
      for other in rest:gmatch "%S+" do list[#list + 1] = other end
      needs[path] = list
    end
  end
  local order, state = {}, {}
  local function visit(path)
    if state[path] then return end
    state[path] = true
    for _, other in ipairs(needs[path] or {}) do visit(other) end
    order[#order + 1] = path
  end
  for _, name in ipairs(wanted) do
    if by_name[name] then
      visit(by_name[name])
    elseif not builtin[name] then
      errors.raise { op = "collect modules", subject = name, name = "ENOENT", status = errors.status.config,
        message = "the kernel has it neither built in nor as a module", hint = "Debian's cloud kernel has all that fcvm needs" }
    end
  end
  return order
end

-- The module's bytes, unpacked where the distribution ships it compressed.
local function read(path)
  local how = unpackers[path:match "%.(%w+)$"]
  if how then return workshop.run { how, "-dc", "--", path, max_output = 64 << 20, op = "unpack module" }.stdout end
  local file <close> = assert(io.open(path, "rb"))
  return file:read "a"
end

--- The cpio entries of the modules of an unpacked kernel package: modules/NAME.ko, and modules/order with a name a line.
-- `root` has lib/modules/`release`.
function M.entries(root, release)
  local directory = root .. "/lib/modules/" .. release
  if not uv.fs_stat(directory .. "/modules.dep") then
    workshop.run { "depmod", "-b", root, release, op = "find out what modules depend on" }
  end
  local entries, names = { { "modules", directory = true } }, {}
  for _, path in ipairs(M.order(directory, M.wanted)) do
    local name = path:match "([^/]+%.ko)[%.%w]*$"
    names[#names + 1] = name
    entries[#entries + 1] = { "modules/" .. name, data = read(directory .. "/" .. path) }
  end
  entries[#entries + 1] = { "modules/order", data = table.concat(names, "\n") .. (#names > 0 and "\n" or "") }
  return entries, names
end

return M
