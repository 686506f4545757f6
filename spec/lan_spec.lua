-- SPDX-License-Identifier: Apache-2.0
-- Named networks, with records and namespaces as a supervisor makes them, and a namespace in each guest's place: real traffic,
-- no VM.
describe("a named network #root", function()
  local core = require "fcvm.core"
  local json = require "fcvm.json"
  local lan = require "fcvm.lan"
  local network = require "fcvm.network"
  local paths = require "fcvm.paths"
  local process = require "fcvm.process"
  local resources = require "fcvm.resources"
  local state = require "fcvm.state"
  local task = require "fcvm.task"
  local uv = require "luv"

  local home, old_data

  before_each(function()
    home = assert(uv.fs_mkdtemp "/tmp/fcvm-spec-lan-XXXXXX")
    old_data = paths.data()
    paths.set_data(home)
  end)

  after_each(function()
    paths.set_data(old_data)
    task.main(function() resources.remove_tree(home) end)
  end)

  local function test(name, body) it(name, function() task.main(body) end) end

  local function links()
    local host <close> = assert(core.net.open())
    local set = {}
    for _, link in ipairs(assert(host:links())) do set[link.name] = link end
    return set
  end

  -- A member as its supervisor makes it, for the current scope; in its TAP's place a link to a namespace that is the guest.
  local function member(name, networks)
    local record = state.claim({ name = name, process_type = "vm", network_mode = "bridged",
      dns = { servers = json.array {}, relay = true } }, network.free_slots(), function(record, living)
      record.networks = networks and lan.choose(networks, living)
    end)
    local left
    local function leave()
      if left then return end
      left = true
      network.remove(record)
      state.remove(record.vm_id)
    end
    task.defer(leave)
    local place = network.create(record)
    network.furnish(record)
    local guest = home .. "/guest-" .. record.vm_id
    assert(core.net.namespace_create(guest))
    task.defer(function() assert(core.net.namespace_remove(guest)) end)
    local inside <close> = assert(core.net.open(place.namespace))
    assert(inside:link_delete(network.tap))
    assert(inside:link_add_veth(network.tap, "eth0", guest))
    assert(inside:address_add(network.tap, network.guest_gateway .. "/30"))
    assert(inside:link_set(network.tap, { up = true }))
    local there <close> = assert(core.net.open(guest))
    assert(there:link_set("lo", { up = true }))
    assert(there:address_add("eth0", network.guest_address .. "/30"))
    assert(there:link_set("eth0", { up = true }))
    assert(there:route_add { to = "0.0.0.0/0", via = network.guest_gateway })
    -- What it serves is its name.
    local server = assert(core.proc.spawn { argv = { "perl", "-MIO::Socket", "-e",
      '$s = IO::Socket::INET->new(LocalPort => 80, Listen => 9, ReuseAddr => 1) or die; '
      .. 'while ($c = $s->accept) { print $c "' .. name .. ' to ", $c->peerhost; close $c }' }, netns = guest, session = true })
    task.defer(function() server:close() end)
    return { record = record, guest = guest, leave = leave, address = networks and record.networks[1].address }
  end

  local function fetch(from, address)
    local deadline = task.now() + 3
    repeat
      local child_out
      local reader, writer = assert(core.proc.pipe())
      local child = assert(core.proc.spawn { argv = { "perl", "-MIO::Socket", "-e",
        '$s = IO::Socket::INET->new(PeerAddr => $ARGV[0], PeerPort => 80, Timeout => 1) or exit 1; print <$s>', address },
        netns = from.guest, fds = { [1] = writer }, session = true })
      core.proc.close(writer)
      local status = process.wait(child).status
      child_out = core.proc.read_fd(reader, 4096)
      core.proc.close(reader)
      child:close()
      if status == 0 then return child_out end
      task.sleep(0.05)
    until task.now() > deadline
    return nil
  end

  -- Asks the guest's resolver; returns the address, "none" for an answer without one, nil for silence.
  local function resolve(from, name)
    local labels = name:gsub("[^.]+%.?", function(label)
      label = label:gsub("%.$", "")
      return string.char(#label) .. label
    end)
    local question = "\18\52\1\0\0\1\0\0\0\0\0\0" .. labels .. "\0\0\1\0\1"
    local fd = assert(core.net.socket(from.guest, nil, "udp"))
    local socket = uv.new_udp()
    assert(socket:open(fd))
    local ok, answer = pcall(task.timeout, 2, "an answer", task.await, function(resume)
      socket:recv_start(function(_, data) if data then resume(data) end end)
      socket:send(question, "172.16.0.1", 53, function() end)
    end)
    socket:close()
    if not ok or not answer then return nil end
    assert.equal("\18\52", answer:sub(1, 2))
    if (">I2"):unpack(answer, 7) == 0 then return "none" end
    return ("%d.%d.%d.%d"):format(answer:byte(-4, -1))
  end

  test("lets its members reach each other, by address and by name, and nobody else", function()
    local a, b = member("a", { "lab" }), member("b", { "lab", "other" })
    local c, d = member("c", { "other" }), member "d"
    assert.is_true(a.address ~= b.address)
    assert.equal("b to " .. a.address, fetch(a, b.address))
    assert.equal("a to " .. b.address, fetch(b, a.address))
    assert.equal(b.address, resolve(a, "b"))
    assert.equal(b.address, resolve(a, "B.lab"))
    assert.equal(c.address, resolve(b, "c.other"))
    assert.matches("^c to ", fetch(b, c.address))
    assert.is_nil(resolve(a, "c"))
    assert.is_nil(resolve(d, "a"))
    -- Who is not in it asks the world for this address, where something may well answer: but not the member.
    for _, pair in ipairs { { a, c }, { d, a }, { c, a } } do
      assert.is_true((fetch(pair[1], pair[2].address) or "") == "")
    end
  end)

  test("comes with its first member and goes with its last", function()
    local a, b = member("a", { "lab" }), member("b", { "lab" })
    local bridge = "fcn" .. a.record.networks[1].id
    assert.equal("fcvm network lab", links()[bridge].alias)
    a.leave()
    assert.is_truthy(links()[bridge])
    assert.is_nil(fetch(b, a.address))
    task.sleep(1.1) -- for so long a name is remembered
    assert.is_nil(resolve(b, "a"))
    local again = member("a", { "lab" })
    assert.equal(a.address, again.address)
    assert.matches("^a to ", fetch(b, again.address))
    b.leave()
    again.leave()
    assert.is_nil(links()[bridge])
  end)

  test("is not made over a link that is somebody else's", function()
    local host <close> = assert(core.net.open())
    assert(host:link_add_bridge "fcn0")
    local ok, err = pcall(member, "a", { "lab" })
    assert.is_false(ok)
    assert.matches("fcn0 is there, and is not fcvm's", tostring(err))
    assert.is_truthy(links().fcn0)
    assert(host:link_delete "fcn0")
  end)

  it("has a name that can be one, and room", function()
    local nine = { "1", "2", "3", "4", "5", "6", "7", "8", "9" }
    for _, wrong in ipairs { "", "a b", "-a", ("a"):rep(33), true, { "a", "a" }, nine } do
      local ok, err = pcall(lan.check, wrong)
      assert.is_false(ok, tostring(wrong))
      assert.equal(64, err.status)
    end
    assert.is_nil(lan.check(nil))
    assert.is_nil(lan.check {})
    assert.same({ "a" }, lan.check "a")
    local living = {}
    for i = 2, 254 do living[#living + 1] = { networks = { { name = "full", id = 0, address = "10.232.0." .. i } } } end
    local ok, err = pcall(lan.choose, { "full" }, living)
    assert.is_false(ok)
    assert.matches("no address left", tostring(err))
    assert.equal("10.232.1.2", lan.choose({ "more" }, living)[1].address)
  end)
end)
