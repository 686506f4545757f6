-- SPDX-License-Identifier: Apache-2.0
-- Egress policies: what they mean, and what becomes of traffic between namespaces under them. Each kind of packet and every rule
-- is in tests/unit/test_net.c; a real guest is in kvm_spec.
describe("egress policies", function()
  local egress = require "fcvm.egress"

  it("are read as people write them", function()
    assert.is_nil(egress.read(nil))
    assert.is_nil(egress.read {})
    assert.equal("allow", egress.read "allow")
    assert.equal("deny", egress.read { "deny" })
    assert.equal("ask", egress.read(function() end))
    assert.same({ "10.0.0.0/8", "1.2.3.4/32:443", "10.0.0.0/8:53/udp", "example.org", "xn--bcher-kva.example:443/tcp", "db" },
      egress.read "10.0.0.0/8, 1.2.3.4:443,10.0.0.0/8:53/udp,Example.org,xn--bcher-kva.example:443/tcp,db")
    assert.same({ "0.0.0.0/0", "a1.b-2.c", "255.255.255.255/32" }, egress.read { "0.0.0.0/0,a1.b-2.c", "255.255.255.255" })
    -- What was read reads as itself.
    local policy = egress.read "10.0.0.0/8:1,example.org:65535/tcp"
    assert.same(policy, egress.read(policy))
    assert.equal("10.0.0.0/8:1,example.org:65535/tcp", egress.text(policy))
    assert.equal("allow", egress.text(nil))
  end)

  it("are refused where they make no sense", function()
    for text, why in pairs {
      ["10.0.0.0/33"] = "no IPv4 address", ["10.0.0.0/"] = "no IPv4 address", ["10.0.0.0/08"] = "no IPv4 address",
      ["1.2.3"] = "no IPv4 address", ["1.2.3.256"] = "no IPv4 address", ["01.2.3.4"] = "no IPv4 address",
      ["10.0.0.1/8"] = "behind its length", ["1.2.3.4:0"] = "no port", ["1.2.3.4:65536"] = "no port", ["1.2.3.4:"] = "no port",
      ["1.2.3.4:80/sctp"] = "tcp or udp", ["1.2.3.4:80/"] = "no port", ["1.2.3.4:80-90"] = "no port", ["::1"] = "IPv4 alone",
      ["[::1]:80"] = "IPv4 alone", ["a..b"] = "no host name", ["-a.b"] = "no host name", ["a.b-"] = "no host name",
      ["a_b.c"] = "no host name", ["*.example.org"] = "no host name", ["a.b/c"] = "no host name", ["a.7"] = "no host name",
      [("a"):rep(64) .. ".org"] = "no host name", [("a."):rep(127) .. "org"] = "no host name", ["a b"] = "no host name",
      ["10.0.0.0/8,deny"] = "'deny' stands", ["allow,deny"] = "stands for itself", ["10.0.0.0/8,"] = "'' stands",
      ["a#b"] = "no host name", ["99999999999999999999"] = "no IPv4", ["1.2.3.4:99999999999999999999"] = "no port",
      [""] = "'' stands", [("a,"):rep(1024) .. "a"] = "over the limit",
    } do
      local ok, err = pcall(egress.read, text)
      assert.is_false(ok, text)
      assert.matches(why, tostring(err))
      assert.equal(64, err.status, text)
    end
    assert.is_false((pcall(egress.read, { true })))
    assert.is_false((pcall(egress.entries, "anything")))
    assert.is_false((pcall(egress.entries, { { } })))
  end)

  it("pass from a snapshot's source to its clones, never less strict unasked", function()
    assert.is_nil(egress.inherit(nil, nil))
    assert.equal("deny", egress.inherit(nil, "deny"))
    assert.same({ "db" }, egress.inherit(nil, { "db" }))
    assert.equal("deny", egress.inherit(nil, "ask"))
    assert.is_nil(egress.inherit("allow", "deny"))
    assert.equal("ask", egress.inherit("ask", "deny"))
    assert.is_false((pcall(egress.inherit, nil, { "no thing" })))
  end)

  it("are a set for each list of ports, and for names one that is filled later", function()
    assert.is_nil(egress.rules(nil, "tap0", {}))
    assert.same({ link = "tap0", ask = false, sets = {}, allow = {} }, egress.rules("deny", "tap0", { "9.9.9.9" }))
    assert.is_true(egress.rules("ask", "tap0", {}).ask)
    local rules = egress.rules({ "10.0.0.0/8", "1.2.3.4/32:443", "10.1.0.0/16", "a.org:443/tcp", "b.org:443/tcp", "b.org" },
      "tap0", { "9.9.9.9" })
    local names = { size = 4096, timeout = 86400 }
    assert.same({ { name = "to", networks = { "10.0.0.0/8", "10.1.0.0/16" } },
      { name = "to_443", networks = { "1.2.3.4/32" } },
      { name = "names_tcp_443", size = names.size, timeout = names.timeout },
      { name = "names", size = names.size, timeout = names.timeout },
      { name = "to_53", networks = { "9.9.9.9/32" } } }, rules.sets)
    assert.same({ { set = "to" }, { set = "to_443", protocol = "tcp", port = 443 },
      { set = "to_443", protocol = "udp", port = 443 }, { set = "names_tcp_443", protocol = "tcp", port = 443 },
      { set = "names" }, { set = "to_53", protocol = "tcp", port = 53 }, { set = "to_53", protocol = "udp", port = 53 } },
      rules.allow)
    assert.same({ { name = "a.org", set = "names_tcp_443" }, { name = "b.org", set = "names_tcp_443" },
      { name = "b.org", set = "names" } }, egress.names { "a.org:443/tcp", "10.0.0.0/8", "b.org:443/tcp", "b.org" })
    assert.same({}, egress.names "deny")
    -- Without names, resolvers are a destination as any other.
    assert.equal(1, #egress.rules({ "10.0.0.0/8" }, "tap0", { "9.9.9.9" }).sets)
  end)
end)

-- guest eth0 10.1.0.2 --- 10.1.0.1 tap0, the VM's namespace, eth0 10.2.0.1 --- 10.2.0.2 eth0 world (10.3.0.1, 10.3.0.2 too)
describe("egress #root", function()
  local control = require "fcvm.control"
  local core = require "fcvm.core"
  local dns_relay = require "fcvm.dns_relay"
  local egress = require "fcvm.egress"
  local egress_names = require "fcvm.egress_names"
  local errors = require "fcvm.errors"
  local log = require "fcvm.log"
  local network = require "fcvm.network"
  local paths = require "fcvm.paths"
  local resources = require "fcvm.resources"
  local task = require "fcvm.task"
  local uv = require "luv"
  local verdicts = require "fcvm.verdicts"
  local net = core.net
  local ID = "vm-" .. core.proc.random_hex(6)
  local REFUSED, SILENT = "ECONNREFUSED", "ETIMEDOUT"

  local directory, at, before, record, inside

  local function link(from, name, address, to, peer, peer_address)
    local near <close> = assert(net.open(from))
    local far <close> = assert(net.open(to))
    assert(near:link_add_veth(name, peer, to))
    assert(near:address_add(name, address))
    assert(far:address_add(peer, peer_address))
    assert(near:link_set(name, { up = true, ipv6 = false }))
    assert(far:link_set(peer, { up = true, ipv6 = false }))
    assert(far:link_set("lo", { up = true }))
  end

  before_each(function()
    directory = assert(uv.fs_mkdtemp "/tmp/fcvm-spec-egress-XXXXXX")
    before = paths.data()
    paths.set_data(directory)
    at = { guest = directory .. "/guest", vm = directory .. "/vm", world = directory .. "/world" }
    for _, path in pairs(at) do assert(net.namespace_create(path)) end
    link(at.vm, "tap0", "10.1.0.1/24", at.guest, "eth0", "10.1.0.2/24")
    link(at.vm, "eth0", "10.2.0.1/24", at.world, "eth0", "10.2.0.2/24")
    local guest <close> = assert(net.open(at.guest))
    local vm <close> = assert(net.open(at.vm))
    local world <close> = assert(net.open(at.world))
    assert(guest:route_add { to = "0.0.0.0/0", via = "10.1.0.1" })
    assert(vm:route_add { to = "0.0.0.0/0", via = "10.2.0.2" })
    for _, address in ipairs { "10.3.0.1/32", "10.3.0.2/32" } do assert(world:address_add("eth0", address)) end
    vm:forwarding(true)
    record = { vm_id = ID, name = "it" }
    -- Not where VMs have theirs: any start of fcvm removes from there what nobody owns.
    inside, network.inside = network.inside, function() return at.vm, "fcvm-" .. ID end
  end)

  after_each(function()
    network.inside = inside
    for _, path in pairs(at) do assert(net.namespace_remove(path)) end
    paths.set_data(before)
    task.main(function() resources.remove_tree(directory) end)
  end)

  local function open()
    local path, name = network.inside(record)
    return assert(net.open(path)), name
  end

  -- Puts a policy in place as network.furnish does.
  local function apply(policy, resolvers)
    record.egress = policy
    local handle <close>, name = open()
    assert(handle:nat_apply { table = name, masquerade = { { source = "10.1.0.0/24", out = "eth0" } },
      dnat = { { address = "10.2.0.1", to_address = "10.1.0.2" } }, egress = egress.rules(policy, "tap0", resolvers or {}) })
  end

  local function tcp(path)
    local socket = uv.new_tcp()
    assert(socket:open(assert(net.socket(path))))
    return socket
  end

  -- Listens in a namespace for the current scope; each connection ends at once.
  local function listen(path, address, port)
    local socket = tcp(path)
    task.defer(function() socket:close() end)
    assert(socket:bind(address, port))
    assert(socket:listen(16, function()
      local peer = uv.new_tcp()
      assert(socket:accept(peer))
      peer:close()
    end))
  end

  -- What a connection comes to: nil, or an errno's name; ETIMEDOUT where there is no answer within `seconds`.
  local function try(path, address, port, seconds)
    local socket = tcp(path)
    local _, err = pcall(task.timeout, seconds or 5, "a connection", function()
      local failure = task.await(function(resume) assert(socket:connect(address, port, resume)) end)
      if failure then errors.raise { op = "connect", name = failure:match "^%u+" or failure, message = failure } end
    end)
    socket:close()
    return err and (err.timeout and SILENT or err.name)
  end

  local function counts()
    local handle <close>, name = open()
    return egress.counts(handle, name)
  end

  it("lets through what a list names, counts the rest, and lets answers pass", function()
    task.main(function()
      for _, address in ipairs { "10.2.0.2", "10.3.0.1", "10.3.0.2" } do
        for _, port in ipairs { 80, 443 } do listen(at.world, address, port) end
      end
      listen(at.guest, "10.1.0.2", 80)
      local function reached()
        local list = {}
        for _, address in ipairs { "10.2.0.2", "10.3.0.1", "10.3.0.2" } do
          for _, port in ipairs { 80, 443 } do
            local failure = try(at.guest, address, port)
            assert.is_true(not failure or failure == REFUSED)
            if not failure then list[#list + 1] = address .. ":" .. port end
          end
        end
        return table.concat(list, " ")
      end
      apply(nil)
      assert.equal("10.2.0.2:80 10.2.0.2:443 10.3.0.1:80 10.3.0.1:443 10.3.0.2:80 10.3.0.2:443", reached())
      apply(egress.read "10.3.0.0/16:443,10.2.0.2,10.3.0.1:80/udp")
      assert.equal("10.2.0.2:80 10.2.0.2:443 10.3.0.1:443 10.3.0.2:443", reached())
      apply(egress.read "deny")
      assert.equal("", reached())
      assert.equal("", reached())
      assert.is_nil(try(at.world, "10.2.0.1", 80))
      local found = counts()
      assert.equal(12, found.denied)
      assert.equal(0, found.others)
      assert.equal(6, #found.destinations)
      local one = found.destinations[1]
      assert.same({ "10.2.0.2", "tcp", 443, 2 }, { one.address, one.protocol, one.port, one.packets })
      assert.is_true(one.bytes >= 80)
    end)
  end)

  it("allows the addresses that come into the sets of names", function()
    task.main(function()
      listen(at.world, "10.3.0.1", 443)
      listen(at.world, "10.3.0.1", 80)
      apply(egress.read "example.org:443", { "10.3.0.2" })
      assert.equal(REFUSED, try(at.guest, "10.3.0.1", 443))
      local handle <close>, name = open()
      for _, entry in ipairs(egress.names(record.egress)) do
        assert.equal("example.org", entry.name)
        assert(handle:set_add(name, entry.set, { { address = "10.3.0.1" } }))
      end
      assert.is_nil(try(at.guest, "10.3.0.1", 443))
      assert.equal(REFUSED, try(at.guest, "10.3.0.1", 80))
      -- The resolver may be asked, and nothing else of it: the world refuses this itself, so that nothing is counted.
      assert.equal(REFUSED, try(at.guest, "10.3.0.2", 53))
      assert.equal(2, counts().denied)
      assert.equal(REFUSED, try(at.guest, "10.3.0.2", 54))
      assert.equal(3, counts().denied)
    end)
  end)

  -- Messages of DNS: a question, and an answer to one with these addresses behind an alias.
  local function question(name, number)
    local labels = {}
    for label in name:gmatch "[^.]+" do labels[#labels + 1] = (">s1"):pack(label) end
    return (">I2I2I2I2I2I2"):pack(number or 7, 0x0100, 1, 0, 0, 0) .. table.concat(labels) .. "\0" .. (">I2I2"):pack(1, 1)
  end

  local function answer(asked, addresses)
    local parts = { (">I2I2I2I4s2"):pack(0xc00c, 5, 1, 60, "\5alias\3net\0") }
    for _, address in ipairs(addresses) do
      local a, b, c, d = address:match "(%d+)%.(%d+)%.(%d+)%.(%d+)"
      parts[#parts + 1] = "\5alias\xc0\x0c" .. (">I2I2I4s2"):pack(1, 1, 60, string.char(a, b, c, d))
    end
    return asked:sub(1, 2) .. (">I2I2I2I2I2"):pack(0x8180, 1, #parts, 0, 0) .. asked:sub(13) .. table.concat(parts)
  end

  -- A resolver of this host's, by both protocols; returns its port and what it has been asked.
  local function resolver(addresses)
    local udp, server, heard = uv.new_udp(), uv.new_tcp(), {}
    assert(udp:bind("127.0.0.57", 0))
    local port = udp:getsockname().port
    udp:recv_start(function(_, data, peer)
      if not data then return end
      heard[#heard + 1] = data
      udp:send(answer(data, addresses), peer.ip, peer.port, function() end)
    end)
    assert(server:bind("127.0.0.57", port))
    assert(server:listen(8, function()
      local client = uv.new_tcp()
      server:accept(client)
      client:read_start(function(_, data)
        if not data then return client:close() end
        heard[#heard + 1] = data:sub(3)
        client:write((">s2"):pack(answer(data:sub(3), addresses)))
      end)
    end))
    task.defer(function()
      udp:close()
      server:close()
    end)
    return port, heard
  end

  -- What the guest is answered: by a datagram, or over a connection.
  local function ask_name(data)
    local socket = uv.new_udp()
    assert(socket:open(assert(net.socket(at.guest, nil, "udp"))))
    local got = task.timeout(5, "an answer", task.await, function(resume)
      socket:recv_start(function(_, reply) if reply then resume(reply) end end)
      socket:send(data, "10.1.0.1", 53, function() end)
    end)
    socket:close()
    return got
  end

  local function ask_name_by_connection(data)
    local socket = tcp(at.guest)
    local got = task.timeout(5, "an answer", task.await, function(resume)
      socket:connect("10.1.0.1", 53, function(failed)
        if failed then return resume(failed) end
        socket:read_start(function(_, reply) resume(reply) end)
        -- In two pieces, which is nobody's business.
        socket:write((">s2"):pack(data):sub(1, 9))
        socket:write((">s2"):pack(data):sub(10))
      end)
    end)
    socket:close()
    return (">s2"):unpack(got)
  end

  it("allows what the relay answers for the names of a list, and passes no other question on", function()
    task.main(function()
      for _, address in ipairs { "10.3.0.1", "10.3.0.2" } do
        for _, port in ipairs { 80, 443 } do listen(at.world, address, port) end
      end
      apply(egress.read "one.example:443,two.example,db", { "10.1.0.1" })
      local names = egress_names.new(record.egress, network.inside(record))
      local port, heard = resolver { "10.3.0.1" }
      -- A member of the VM's named network.
      local members = { answer = function(_, asked)
        return asked:find("\2db\0", 1, true) and answer(asked, { "10.3.0.2" }) or nil
      end }
      dns_relay.start(at.vm, "10.1.0.1", { servers = { "127.0.0.57" }, port = port }, names, members)
      -- A name that is not in the list, one that ends as it, and what is no question: none is passed on.
      for _, name in ipairs { "three.example", "sub.one.example", "example", "one.example.x" } do
        assert.equal("\0\7\x81\x83\0\1\0\0\0\0\0\0" .. question(name):sub(13), ask_name(question(name)))
        assert.equal("\0\7\x81\x83\0\1\0\0\0\0\0\0" .. question(name):sub(13), ask_name_by_connection(question(name)))
      end
      assert.equal("ab\x80\x81\0\0\0\0\0\0\0\0", ask_name "abcdefghijklmnop")
      assert.equal(0, #heard)
      assert.equal(REFUSED, try(at.guest, "10.3.0.1", 443))
      -- The answer is the guest's as it is, but for its number, which the resolver did not see.
      assert.equal(answer(question "One.example", { "10.3.0.1" }), ask_name(question "One.example"))
      assert.equal(1, #heard)
      assert.equal(question("One.example"):sub(3), heard[1]:sub(3))
      assert.is_nil(try(at.guest, "10.3.0.1", 443))
      assert.equal(REFUSED, try(at.guest, "10.3.0.1", 80))
      assert.equal(answer(question "two.example", { "10.3.0.1" }), ask_name_by_connection(question "two.example"))
      assert.is_nil(try(at.guest, "10.3.0.1", 80))
      assert.equal(REFUSED, try(at.guest, "10.3.0.2", 80))
      assert.equal("two.example", names.known["10.3.0.1"])
      ask_name(question "db")
      assert.is_nil(try(at.guest, "10.3.0.2", 80))
      assert.equal(2, #heard)
    end)
  end)

  it("begins the addresses of names anew where there is no room for more", function()
    task.main(function()
      apply(egress.read "one.example", { "10.1.0.1" })
      local names = egress_names.new(record.egress, network.inside(record))
      local handle <close>, name = open()
      for i = 0, 4095 do names:learn(answer(question "one.example", { ("11.0.%d.%d"):format(i >> 8, i & 255) })) end
      assert.equal(4096, #handle:set_list(name, "names"))
      names:learn(answer(question "one.example", { "12.0.0.1", "12.0.0.2" }))
      assert.equal(2, #handle:set_list(name, "names"))
      assert.is_true(names.count <= 4096)
      -- Of no name in the list, and no answer at all.
      names:learn(answer(question "two.example", { "12.0.0.3" }))
      names:learn(question "one.example")
      names:learn ""
      assert.equal(2, #handle:set_list(name, "names"))
    end)
  end)

  -- A supervisor as far as verdicts need one, for the current scope; returns what stands for the VM in the recipe's process.
  local function supervise()
    local vm = { id = ID, name = "it" }
    local dir = paths.ensure(paths.vm(ID))
    control.serve(dir, { [verdicts.request] = verdicts.ask }, { record = record, log = log.tag "it",
      names = { known = { ["10.3.0.1"] = "one.example" } } })
    return vm
  end

  local function ask(arguments) return control.call(paths.vm(ID), "it", verdicts.request, arguments or {}) end

  it("asks a recipe's function once for each destination, and denies what it has not allowed", function()
    task.main(function()
      listen(at.world, "10.3.0.1", 80)
      listen(at.world, "10.3.0.2", 80)
      apply "ask"
      -- Nobody decides yet: nothing passes, and nothing is lost.
      assert.equal(SILENT, try(at.guest, "10.3.0.1", 80, 0.1))
      local heard, stop = {}, nil
      task.scope(function()
        local vm = supervise()
        stop = function() vm.exit = {} end
        verdicts.serve(vm, function(destination)
          heard[#heard + 1] = ("%s:%s/%s %s"):format(destination.address, destination.port, destination.protocol,
            destination.resolver and "resolver" or destination.name or "")
          if destination.port == 81 then error "a slip" end
          if destination.port == 82 then return "yes" end
          return destination.name == "one.example"
        end)
        -- A SYN that is lost comes again after a second.
        assert.is_nil(try(at.guest, "10.3.0.1", 80))
        local began = task.now()
        for _ = 1, 3 do assert.is_nil(try(at.guest, "10.3.0.1", 80)) end
        assert.equal(REFUSED, try(at.guest, "10.3.0.2", 80))
        assert.equal(REFUSED, try(at.guest, "10.3.0.2", 80))
        assert.equal(REFUSED, try(at.guest, "10.3.0.1", 81))
        assert.equal(REFUSED, try(at.guest, "10.3.0.1", 82))
        assert.is_true(task.now() - began < 5)
        table.sort(heard)
        assert.same({ "10.3.0.1:80/tcp one.example", "10.3.0.1:81/tcp one.example", "10.3.0.1:82/tcp one.example",
          "10.3.0.2:80/tcp ", "172.16.0.1:53/udp resolver" }, heard)
        -- One decides at a time.
        local ok, err = pcall(ask)
        assert.is_false(ok)
        assert.equal("EBUSY", err.name)
        stop()
      end)
      -- It has gone: what was decided holds, all else is refused at once.
      assert.is_nil(try(at.guest, "10.3.0.1", 80))
      assert.equal(REFUSED, try(at.guest, "10.3.0.2", 443, 0.9))
      assert.equal(5, #heard)
      assert.is_true(counts().denied >= 5)
    end)
  end)

  it("denies what is undecided when the one who decides is killed", function()
    task.main(function()
      apply "ask"
      task.scope(function()
        supervise()
        local connection = control.connect(paths.vm(ID), "it")
        task.spawn(pcall, connection.ask, connection, verdicts.request, {})
        task.sleep(0.02)
        assert.equal(SILENT, try(at.guest, "10.3.0.1", 80, 0.2))
        connection:close()
        for _ = 1, 100 do
          if try(at.guest, "10.3.0.1", 80, 0.2) == REFUSED then break end
        end
        assert.equal(REFUSED, try(at.guest, "10.3.0.1", 81, 0.9))
        local ok, err = pcall(ask)
        assert.is_false(ok)
        assert.matches("stays denied", tostring(err))
      end)
    end)
  end)

  it("begins its verdicts anew where there is no room for more", function()
    task.main(function()
      listen(at.world, "10.3.0.1", 80)
      apply "ask"
      local handle <close>, name = open()
      local many = {}
      for i = 1, 16384 do
        many[i] = { address = ("11.0.%d.%d"):format(i >> 8, i & 255), protocol = "17", port = i % 7 }
      end
      assert(handle:set_add(name, "granted", many))
      local value, err = handle:set_add(name, "granted", { { address = "10.3.0.1", protocol = "tcp", port = 80 } })
      assert.is_nil(value)
      assert.equal("ENFILE", err.name)
      task.scope(function()
        local vm = supervise()
        verdicts.serve(vm, function() return true end)
        assert.is_nil(try(at.guest, "10.3.0.1", 80))
        assert.is_true(#handle:set_list(name, "granted") <= 2) -- and the resolver
        vm.exit = {}
      end)
    end)
  end)

  it("has no words for a VM without a policy, or one whose policy is none", function()
    task.main(function()
      apply "deny"
      task.scope(function()
        supervise()
        local ok, err = pcall(ask)
        assert.is_false(ok)
        assert.equal("EINVAL", err.name)
      end)
    end)
  end)
end)
