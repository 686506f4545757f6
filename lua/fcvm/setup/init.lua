-- SPDX-License-Identifier: Apache-2.0
--- What fcvm needs beside itself: Firecracker, a guest kernel, a root file system. Each is made by one call, which costs
-- little where it was made before, verifies what it took, and leaves nothing half done when it is interrupted.
--
--     setup.all {}
--     setup.firecracker { from = "release-v1.12.1-x86_64" }
local errors = require "fcvm.errors"

local M = {}

--- setup.firecracker { from=, force=, unpinned= }: see fcvm.setup.firecracker.
function M.firecracker(options) return require("fcvm.setup.firecracker").setup(options) end

--- setup.kernel { from=, force= }: see fcvm.setup.kernel.
function M.kernel(options) return require("fcvm.setup.kernel").setup(options) end

--- setup.rootfs { force=, mirror=, room= }: see fcvm.setup.rootfs.
function M.rootfs(options) return require("fcvm.setup.rootfs").setup(options) end

--- All three, in this order. Options: force. Returns {firecracker=, kernel=, rootfs=}.
function M.all(options)
  options = errors.options("setup.all", options or {}, { force = "boolean" })
  local given = { force = options.force }
  return { firecracker = M.firecracker(given), kernel = M.kernel(given), rootfs = M.rootfs(given) }
end

return M
