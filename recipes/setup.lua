-- SPDX-License-Identifier: Apache-2.0
--- Makes what fcvm needs, or checks the host: `fcvm setup [firecracker|kernel|rootfs|preflight]`.
local fcvm = require "fcvm"
local setup = fcvm.setup
local preflight = require "fcvm.preflight"

local args = fcvm.args({
  part = { "string", "firecracker, kernel, rootfs or preflight; all of them without one", positional = 1, required = false },
  from = { "string", "take it from this file (firecracker, kernel)", required = false, metavar = "FILE" },
  force = { "boolean", "make it anew even if it is there" },
  only = { "string", "preflight: only checks whose name begins so", required = false, metavar = "NAME" },
}, { description = "Makes what fcvm needs; each step is verified, and costs nothing when it is done." })

local function check()
  local list = preflight.run { only = args.only }
  if args.json then print(fcvm.json.encode(list, true)) else io.stdout:write(preflight.render(list)) end
  return preflight.exit_status(list)
end

local parts = {
  firecracker = function() setup.firecracker { from = args.from, force = args.force } end,
  kernel = function() setup.kernel { from = args.from, force = args.force } end,
  rootfs = function() setup.rootfs { force = args.force } end,
  preflight = check,
}

if args.part then
  local make = parts[args.part]
  if not make then
    fcvm.errors.raise { op = "setup", subject = args.part, name = "EINVAL", message = "there is no such part",
      hint = "firecracker, kernel, rootfs or preflight" }
  end
  return make()
end
setup.all { force = args.force }
return check()
