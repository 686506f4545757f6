-- SPDX-License-Identifier: Apache-2.0
--- Makes what fcvm needs, or checks the host: `fcvm setup [firecracker|kernel|rootfs|preflight]`.
local fcvm = require "fcvm"
local setup = fcvm.setup
local preflight = require "fcvm.preflight"

local args = fcvm.args({
  part = { "string", "firecracker, kernel, rootfs or preflight; all of them without one", positional = 1, required = false },
  from = { "string", "firecracker, kernel: take it from this file or directory", required = false, metavar = "FILE" },
  unpinned = { "boolean", "firecracker: take the binaries of --from whatever their digests" },
  force = { "boolean", "make it anew even if it is there" },
  only = { "string", "preflight: only checks whose name begins so", required = false, metavar = "NAME" },
}, { report = "json", description = "Makes what fcvm needs; each step is verified, and costs nothing when it is done." })

-- Says what was made, for programs.
local function made(record)
  if args.json then print(fcvm.json.encode(record, true)) end
end

local function check()
  local list = preflight.run { only = args.only }
  if args.json then print(fcvm.json.encode(list, true)) else io.stdout:write(preflight.render(list)) end
  return preflight.exit_status(list)
end

local function all()
  setup.all { force = args.force }
  return check()
end

-- What each part does, and the options that it takes.
local parts = {
  firecracker = { "from unpinned force", function()
    made(setup.firecracker { from = args.from, force = args.force, unpinned = args.unpinned })
  end },
  kernel = { "from force", function() made(setup.kernel { from = args.from, force = args.force }) end },
  rootfs = { "force", function() made(setup.rootfs { force = args.force }) end },
  preflight = { "only", check },
  all = { "force", all },
}

local part = parts[args.part or "all"]
if not part then
  fcvm.errors.raise { op = "setup", subject = args.part, name = "EINVAL", message = "there is no such part",
    hint = "firecracker, kernel, rootfs or preflight" }
end
for _, option in ipairs { "from", "unpinned", "force", "only" } do
  if args[option] and not part[1]:find(option, 1, true) then
    fcvm.errors.raise { op = "setup", subject = args.part or "all parts", name = "EINVAL", message = "--" .. option ..
      " has no meaning here", hint = "fcvm setup --help says which part takes it" }
  end
end
return part[2]()
