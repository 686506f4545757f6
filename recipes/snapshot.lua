-- SPDX-License-Identifier: Apache-2.0
--- Makes, lists, inspects and removes snapshots: `fcvm snapshot create|ls|inspect|rm`.
local fcvm = require "fcvm"

local args = fcvm.args({
  action = { "string", "create, ls, inspect, rm; also: serve, run (each with its own --help)", positional = 1 },
  names = { "string", "create: the VM's name or id; inspect and rm: tags", positional = 2, many = true },
  pid = { "integer", "create: the VM's PID instead of its name", required = false },
  tag = { "string", "create: the snapshot's tag (the VM's name)", required = false, short = "-t" },
  label = { "pairs", "create: a label of the snapshot" },
}, { report = "json", description = "Makes, lists, inspects and removes snapshots." })

local function usage(message, hint)
  fcvm.errors.raise { op = "snapshot", name = "EINVAL", message = message, hint = hint or "fcvm snapshot --help" }
end

local actions = {}

function actions.create()
  local key = args.pid or args.names[1]
  if not key or #args.names > (args.pid and 0 or 1) then usage "create needs one VM: a name, or --pid" end
  local vm = fcvm.vm(key)
  local bar <close> = fcvm.progress "snapshot"
  local made = vm:snapshot { tag = args.tag, labels = args.label, on_progress = function(what) bar:say(what) end }
  bar:done(("%s; %s stood still for %.2f s"):format(made.tag, vm.name, made.paused))
end

local function servers_of(tag)
  local rows = {}
  for _, server in ipairs(fcvm.servers(tag)) do
    local ok, stats = pcall(server.stats, server)
    rows[#rows + 1] = { serve_id = server.serve_id, pid = server.pid, health = ok and server.health or "unknown",
      snapshot = server.snapshot, clones = server.clones, memory = server.memory, stats = ok and stats or nil }
  end
  return rows
end

function actions.ls()
  local list, broken = fcvm.snapshots()
  local snapshots, servers = {}, servers_of()
  for _, failure in ipairs(broken) do fcvm.log.warn("%s", tostring(failure.error)) end
  for i, snapshot in ipairs(list) do
    local all = snapshot:inspect()
    snapshots[i] = { tag = all.tag, image = all.image, memory_mib = all.memory_mib, size_mib = all.size >> 20,
      created = os.date("%Y-%m-%d %H:%M:%S", all.created_at), servers = #all.servers, recorded = all.recorded }
  end
  if args.json then
    local array = fcvm.json.array
    print(fcvm.json.encode({ snapshots = array(snapshots), servers = array(servers) }, true))
    return
  end
  fcvm.report { title = "snapshots", rows = snapshots,
    columns = { "tag", "image", "memory_mib", "size_mib", "created", "servers" } }
  if #servers > 0 then
    print()
    fcvm.report { title = "servers", rows = servers,
      columns = { "serve_id", "pid", "health", "snapshot", "clones", "memory" } }
  end
end

function actions.inspect()
  if #args.names == 0 then usage "inspect needs a tag" end
  local all = {}
  for i, tag in ipairs(args.names) do all[i] = fcvm.snapshot(tag):inspect() end
  print(fcvm.json.encode(#all == 1 and all[1] or all, true))
end

function actions.rm()
  if #args.names == 0 then usage "rm needs a tag" end
  for _, tag in ipairs(args.names) do fcvm.remove_snapshot(tag) end
end

local action = actions[args.action]
if not action then
  local near = fcvm.errors.nearest(args.action, { "create", "ls", "inspect", "rm", "serve", "run" })
  usage(("there is no '%s'"):format(args.action), near and ("did you mean '%s'?"):format(near) or nil)
end
action()
