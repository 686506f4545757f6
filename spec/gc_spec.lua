-- SPDX-License-Identifier: Apache-2.0
-- What is left of killed owners: found, told and removed; what is somebody else's stays. No VM: records and networks as a
-- supervisor makes them.
describe("gc #root", function()
  local cli = require "spec.support.cli"
  local core = require "fcvm.core"
  local fcvm = require "fcvm"
  local gc = require "fcvm.gc"
  local json = require "fcvm.json"
  local network = require "fcvm.network"
  local paths = require "fcvm.paths"
  local process = require "fcvm.process"
  local resources = require "fcvm.resources"
  local state = require "fcvm.state"
  local task = require "fcvm.task"
  local uv = require "luv"

  local home, old_data

  before_each(function()
    home = assert(uv.fs_mkdtemp "/tmp/fcvm-spec-gc-XXXXXX")
    old_data = paths.data()
    paths.set_data(home)
  end)

  after_each(function()
    paths.set_data(old_data)
    task.main(function() resources.remove_tree(home) end)
  end)

  local function test(name, body) it(name, function() task.main(body) end) end

  -- A start in a process of its own, as far as the network goes; it is killed before its `stop`-th call of the core's network, or
  -- says "made" when it has made all. Arguments: the name, the data directory, stop (0: never), whether in a named network.
  local program = [[
    local fcvm = require "fcvm"
    local args = fcvm.args { name = { "string", "name", positional = 1 }, stop = { "integer", "call", positional = 2 } }
    local core = fcvm.core
    local calls = 0
    local function counted(fn)
      return function(...)
        calls = calls + 1
        if calls == args.stop then require("luv").kill(require("luv").os_getpid(), 9) end
        return fn(...)
      end
    end
    local open = core.net.open
    local methods = getmetatable(open()).__index
    for _, name in ipairs { "link_add_veth", "link_add_tap", "link_add_bridge", "link_set", "address_add", "route_add",
      "nat_apply" } do methods[name] = counted(methods[name]) end
    core.net.namespace_create = counted(core.net.namespace_create)
    local network, state, json, lan = require "fcvm.network", require "fcvm.state", require "fcvm.json", require "fcvm.lan"
    require("fcvm.resources").sweep()
    local record = state.claim({ name = args.name, process_type = "vm", network_mode = "bridged",
      dns = { servers = json.array { "10.0.0.53" } },
      ports = json.array { { protocol = "tcp", host_port = 18080, guest_port = 80 } } },
      network.free_slots(), function(record, living) record.networks = lan.choose({ "lab" }, living) end)
    network.create(record)
    network.furnish(record)
    print("made " .. calls)
    io.stdout:flush()
    fcvm.sleep(60)
  ]]

  local function start(name, stop)
    local file = home .. "/start.lua"
    assert(core.disk.write(file, program, 384))
    local reader, writer = assert(core.proc.pipe())
    local child = assert(core.proc.spawn { argv = { cli.binary, "recipe", "run", file, name, tostring(stop) },
      fds = { [1] = writer, [2] = 2 }, session = true })
    core.proc.close(writer)
    local ended
    local text = ""
    cli.eventually("the start to get where it should", function()
      if task.readable_within(reader, 0.005) then text = text .. core.proc.read_fd(reader, 4096) end
      ended = child:wait()
      return ended or text:find "\n"
    end, 20)
    core.proc.close(reader)
    return child, ended, tonumber(text:match "made (%d+)")
  end

  -- All that fcvm may have on this host: links, tables, namespaces, records, directories.
  local function everything()
    -- The kernel takes a link away with its namespace, by itself and a moment later.
    task.sleep(0.2)
    local list = {}
    local host <close> = assert(core.net.open())
    for _, link in ipairs(assert(host:links())) do
      if link.name:match "^fc[vmn]%d" then list[#list + 1] = link.name end
    end
    for _, entry in ipairs(assert(host:tables())) do list[#list + 1] = entry.name end
    for _, dir in ipairs { paths.run() .. "/netns", paths.state(), paths.disks() } do
      local scan = uv.fs_scandir(dir)
      for entry in function() return scan and uv.fs_scandir_next(scan) end do
        if entry ~= ".lock" then list[#list + 1] = dir .. "/" .. entry end
      end
    end
    return list
  end

  test("leaves nothing of a start that was killed, at whichever of its steps, and its name works again", function()
    local step, made = 0, nil
    while not made do
      step = step + 1
      local child, ended, whole = start("web", step)
      made = whole
      if not made then assert.equal(9, ended.signal, "step " .. step) end
      child:kill(9)
      cli.eventually("it to end", function() return child:wait() end, 10)
      child:close()
      -- Every other time by the next start, else by gc.
      if step % 2 == 0 then
        local again, _, count = start("web", 0)
        assert.is_truthy(count, "step " .. step)
        again:kill(9)
        cli.eventually("it to end", function() return again:wait() end, 10)
        again:close()
      end
      local list = gc.collect()
      for _, entry in ipairs(list) do assert.is_true(entry.removed, entry.name) end
      assert.same({}, everything(), "step " .. step)
    end
    assert.is_true(step > 15, "only " .. step .. " steps")
  end)

  test("tells what it would remove, touches nothing of the living and nothing that only looks like ours", function()
    local living, _, made = start("alive", 0)
    assert.is_truthy(made)
    local dead = start("dead", 0)
    dead:kill(9)
    cli.eventually("it to end", function() return dead:wait() end, 10)
    dead:close()
    local host <close> = assert(core.net.open())
    assert(host:link_add_veth("fcv99999", "fcm9x9"))
    assert(host:nat_apply { table = "fcvm-mine", masquerade = { { source = "10.255.0.0/30" } } })
    fcvm.defer(function()
      local again <close> = assert(core.net.open())
      again:link_delete "fcv99999"
      again:table_delete "fcvm-mine"
    end)
    local before = everything()
    local dry = process.run { cli.binary, "gc", "--dry-run", "--json", contain = false }
    local kinds = {}
    for _, row in ipairs(json.decode(dry.stdout).rows) do
      kinds[row.kind] = true
      assert.equal("would be", row.removed)
    end
    for _, kind in ipairs { "record", "namespace", "link", "table" } do assert.is_true(kinds[kind], kind) end
    assert.matches("link fcv99999 is not fcvm's", dry.stderr)
    assert.matches("table fcvm%-mine is not fcvm's", dry.stderr)
    assert.same(before, everything())
    assert.equal(0, process.run({ cli.binary, "gc", contain = false }).status)
    local after = {}
    for _, name in ipairs(everything()) do after[name] = true end
    assert.is_true(after.fcv99999 and after.fcm9x9 and after["fcvm-mine"])
    local record = state.find "alive"
    assert.is_true(after[network.of_slot(record.slot).link] and after["fcvm-" .. record.vm_id])
    assert.is_true(after["fcn" .. record.networks[1].id])
    assert.equal("", process.run({ cli.binary, "gc", contain = false }).stdout)
    -- With its record lost the mark alone says whose it was.
    living:kill(9)
    cli.eventually("it to end", function() return living:wait() end, 10)
    living:close()
    uv.fs_unlink(state.path(record.vm_id))
    gc.collect()
    for _, name in ipairs(everything()) do
      assert.is_true(name == "fcv99999" or name == "fcm9x9" or name == "fcvm-mine", name)
    end
  end)
end)
