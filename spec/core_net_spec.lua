-- SPDX-License-Identifier: Apache-2.0
-- fcvm.core.net through its binding: results, errors as tables, misuse, and the life of a handle. That links and rules do
-- what they say is shown with traffic by tests/unit/test_net.c.
local core = require "fcvm.core"
local uv = require "luv"
local net = core.net

local function descriptors()
  local count, scan = 0, uv.fs_scandir "/proc/self/fd"
  while uv.fs_scandir_next(scan) do count = count + 1 end
  return count
end

local function named(list, key, name)
  for _, entry in ipairs(list) do
    if entry[key] == name then return entry end
  end
end

local function fails(name, value, err)
  assert.is_nil(value)
  assert.equal(name, err.name)
  assert.is_true(#tostring(err) > 0)
  return err
end

describe("core.net #root", function()
  local directory, path, peer, inside
  local home = uv.fs_readlink "/proc/self/ns/net"

  before_each(function()
    directory = assert(uv.fs_mkdtemp "/tmp/fcvm-spec-net-XXXXXX")
    path, peer = directory .. "/a", directory .. "/b"
    assert(net.namespace_create(path))
    assert(net.namespace_create(peer))
    inside = assert(net.open(path))
  end)

  after_each(function()
    inside:close()
    net.namespace_remove(path)
    net.namespace_remove(peer)
    assert(uv.fs_rmdir(directory))
    assert.equal(home, uv.fs_readlink "/proc/self/ns/net")
  end)

  it("makes and removes namespaces", function()
    fails("EEXIST", net.namespace_create(path))
    fails("ENOENT", net.namespace_create(directory .. "/missing/x"))
    fails("ENOENT", net.namespace_remove(directory .. "/missing"))
    fails("EINVAL", net.namespace_remove "/etc/hostname")
    local err = fails("ENOENT", net.open(directory .. "/missing"))
    assert.equal(directory .. "/missing", err.subject)
    fails("EINVAL", net.open "/proc/self/ns/uts")
    assert.is_true(net.namespace_remove(path))
    assert.is_nil(uv.fs_stat(path))
  end)

  it("adds, changes, lists and deletes links", function()
    assert.is_true(inside:link_add_veth("veth0", "eth0", peer))
    assert.is_true(inside:link_add_tap("tap0", { uid = 1234, gid = 1234 }))
    assert.is_true(inside:link_add_tap "tap1")
    assert.is_true(inside:link_set("veth0", { up = true, mtu = 1400, mac = "02:fc:00:00:00:07", ipv6 = false }))
    assert.is_true(inside:link_set("veth0", { route_localnet = true }))
    local links = inside:links()
    local veth, tap = named(links, "name", "veth0"), named(links, "name", "tap0")
    assert.same({ "veth", true, 1400, "02:fc:00:00:00:07" }, { veth.kind, veth.up, veth.mtu, veth.mac })
    assert.same({ "tun", false }, { tap.kind, tap.up })
    assert.equal("integer", math.type(tap.index))
    assert.is_nil(named(links, "name", "lo").kind)
    local other <close> = assert(net.open(peer))
    assert.truthy(named(other:links(), "name", "eth0"))
    assert.is_true(inside:link_delete "veth0")
    assert.is_nil(named(other:links(), "name", "eth0"))
  end)

  it("gives addresses and routes", function()
    inside:link_add_veth("veth0", "eth0", peer)
    assert.is_true(inside:address_add("veth0", "10.0.0.1/30"))
    assert.is_true(inside:link_set("veth0", { up = true }))
    assert.same({ { link = "veth0", address = "10.0.0.1/30" } }, inside:addresses())
    assert.is_true(inside:route_add { to = "0.0.0.0/0", via = "10.0.0.2", link = "veth0" })
    fails("EEXIST", inside:route_add { to = "0.0.0.0/0", via = "10.0.0.2" })
    fails("ENETUNREACH", inside:route_add { to = "10.7.0.0/16", via = "10.1.0.2" })
  end)

  it("switches forwarding and tells what it was", function()
    inside:forwarding(false)
    assert.is_false(inside:forwarding(true))
    assert.is_true(inside:forwarding(false))
    assert.is_false(inside:forwarding())
  end)

  it("puts, replaces, lists and deletes tables", function()
    assert.same({}, inside:tables())
    local options = {
      table = "fcvm-a", comment = "fcvm a pid 1",
      masquerade = { { source = "172.16.0.0/30", out = "eth0" }, { source = "10.0.0.0/8" } },
      forward = { { from = "tap0", to = "eth*" } },
      dnat = {
        { address = "10.0.0.2", to_address = "172.16.0.2" },
        { protocol = "tcp", port = 8080, to_address = "172.16.0.2", to_port = 80 },
        { protocol = "udp", port = 53, to_address = "172.16.0.2" },
      },
      drop_forward = { { in_prefix = "fcv", out_prefix = "fcv" } },
      drop_source = { { link = "tap0", source = "172.16.0.0/30" } },
      drop_input = { "eth0" },
      egress = { link = "tap0", ask = true, sets = { { name = "to", networks = { "10.0.0.0/8" } },
        { name = "names", size = 10, timeout = 60 } },
        allow = { { set = "to", protocol = "tcp", port = 80 }, { set = "names" } } },
    }
    assert.is_true(inside:nat_apply(options))
    assert.same({ { name = "fcvm-a", comment = "fcvm a pid 1" } }, inside:tables())
    options.comment = nil
    assert.is_true(inside:nat_apply(options))
    assert.same({ { name = "fcvm-a" } }, inside:tables())
    assert.is_true(inside:table_delete "fcvm-a")
    assert.same({}, inside:tables())
    fails("ENOENT", inside:table_delete "fcvm-a")
    fails("EINVAL", inside:table_delete "other")
  end)

  it("reads and changes the sets of a table", function()
    assert(inside:nat_apply { table = "fcvm-a", egress = { link = "tap0", ask = true,
      sets = { { name = "to", networks = { "10.0.0.0/8", "10.1.0.0/16", "9.9.9.9/32" } }, { name = "names", size = 2 } },
      allow = { { set = "to" }, { set = "names", protocol = "udp", port = 53 } } } })
    local function sorted(set)
      local list = assert(inside:set_list("fcvm-a", set))
      table.sort(list, function(a, b) return a.address < b.address end)
      return list
    end
    assert.same({ { address = "10.0.0.0" }, { address = "9.9.9.9" } }, sorted "to")
    assert.same({}, sorted "denied")
    assert.is_true(inside:set_add("fcvm-a", "names", { { address = "1.2.3.4" } }))
    assert.is_true(inside:set_add("fcvm-a", "names", {}))
    assert.same({ { address = "1.2.3.4" } }, sorted "names")
    fails("ENFILE", inside:set_add("fcvm-a", "names", { { address = "1.2.3.5" }, { address = "1.2.3.6" } }))
    assert.is_true(inside:set_add("fcvm-a", "names", { { address = "1.2.3.5" }, { address = "1.2.3.6" } }, { replace = true }))
    assert.same({ { address = "1.2.3.5" }, { address = "1.2.3.6" } }, sorted "names")
    assert.is_true(inside:set_add("fcvm-a", "names", {}, { replace = true }))
    assert.same({}, sorted "names")
    local verdicts = { { address = "1.1.1.1", protocol = "tcp", port = 80 }, { address = "1.1.1.2", protocol = "icmp" },
      { address = "1.1.1.3", protocol = "0" }, { address = "1.1.1.4", protocol = "47", port = 0 } }
    assert.is_true(inside:set_add("fcvm-a", "granted", verdicts))
    local found = sorted "granted"
    assert.same({ address = "1.1.1.1", protocol = "tcp", port = 80, packets = 0, bytes = 0 }, found[1])
    assert.same({ "icmp", "0", "47" }, { found[2].protocol, found[3].protocol, found[4].protocol })
    fails("EINVAL", inside:set_add("fcvm-a", "granted", { { address = "1.1.1.1" } }))
    fails("ENOENT", inside:set_add("fcvm-a", "none", { { address = "1.1.1.1" } }))
    fails("ENOENT", inside:set_add("fcvm-b", "names", { { address = "1.1.1.1" } }))
    fails("ENOENT", inside:set_list("fcvm-a", "none"))
    fails("EINVAL", inside:set_list("other", "names"))
    fails("ENAMETOOLONG", inside:set_list("fcvm-a", ("x"):rep(32)))
    assert.is_true(inside:egress_settle "fcvm-a")
    assert.is_true(inside:egress_settle "fcvm-a")
    fails("ENOENT", inside:egress_settle "fcvm-b")
    fails("EINVAL", inside:egress_settle "other")
  end)

  it("refuses egress rules that cannot be", function()
    local to = { name = "to", networks = { "10.0.0.0/8" } }
    for place, egress in pairs {
      ["egress link 1"] = { link = "a/b" },
      ["egress set 1"] = { link = "tap0", sets = { { name = "a-b" } } },
      ["egress set 2"] = { link = "tap0", sets = { to, { name = "x", networks = { "10.0.0.0" } } } },
      ["egress allow 1"] = { link = "tap0", sets = { to }, allow = { { set = "other" } } },
      ["egress allow 2"] = { link = "tap0", sets = { to }, allow = { { set = "to" }, { set = "to", port = 80 } } },
      ["egress allow 3"] = { link = "tap0", sets = { to }, allow = { { set = "to" }, { set = "to" },
        { set = "to", protocol = "icmp" } } },
    } do
      assert.equal("apply firewall: rule " .. place, fails("EINVAL", inside:nat_apply { table = "fcvm-a", egress = egress }).op)
    end
    -- A name of fcvm's own, and one that is there twice: the kernel knows.
    assert.equal("apply firewall: set denied", fails("EEXIST", inside:nat_apply { table = "fcvm-a", egress = { link = "tap0",
      sets = { { name = "denied" } } } }).op)
    assert.same({}, inside:tables())
  end)

  it("reads options that exist only while they are asked for", function()
    local made = setmetatable({}, { __index = function(_, key)
      if key == "to_address" then return "172.16.0." .. 2 end
      collectgarbage()
    end })
    assert.is_true(inside:nat_apply { table = "fcvm-a", dnat = { made, made, made } })
  end)

  it("returns what the kernel and the user get wrong", function()
    inside:link_add_veth("veth0", "eth0", peer)
    assert.equal("veth0-x", fails("EEXIST", inside:link_add_veth("veth0", "x", peer)).subject)
    fails("EEXIST", inside:link_add_tap "lo")
    fails("ENAMETOOLONG", inside:link_add_tap "longer-than-a-name")
    fails("EINVAL", inside:link_add_tap "a/b")
    fails("ENODEV", inside:link_set("none", { up = true }))
    fails("ENODEV", inside:link_delete "none")
    fails("ENODEV", inside:address_add("none", "10.0.0.1/30"))
    fails("EINVAL", inside:address_add("veth0", "10.0.0.1"))
    fails("EINVAL", inside:link_set("veth0", { mac = "nonsense" }))
    local err = fails("EINVAL", inside:nat_apply { table = "fcvm-a", dnat = { { to_address = "here" } } })
    assert.equal("apply firewall: rule dnat 1", err.op)
    assert.equal("fcvm-a", err.subject)
    fails("EINVAL", inside:nat_apply { table = "mine" })
  end)

  it("raises on misuse", function()
    local wrong = {
      function() net.open(true) end,
      function() net.namespace_create "a\0b" end,
      function() inside:link_set("lo") end,
      function() inside:link_set("lo", { up = "yes" }) end,
      function() inside:link_set("lo", { colour = 1 }) end,
      function() inside:link_set("lo", { mtu = 0 }) end,
      function() inside:link_set("lo", { mac = 7 }) end,
      function() inside:link_add_tap("tap0", { uid = -1 }) end,
      function() inside:forwarding("yes") end,
      function() inside:route_add { via = "10.0.0.1" } end,
      function() inside:nat_apply {} end,
      function() inside:nat_apply { table = "fcvm-a", colour = 1 } end,
      function() inside:nat_apply { table = "fcvm-a", dnat = {} , masquerade = "all" } end,
      function() inside:nat_apply { table = "fcvm-a", dnat = { "x" } } end,
      function() inside:nat_apply { table = "fcvm-a", dnat = { { to_address = "10.0.0.1", port = 65536 } } } end,
      function() inside:nat_apply { table = "fcvm-a", dnat = { {} } } end,
      function() inside:nat_apply { table = "fcvm-a", drop_input = { 7 } } end,
      function() inside.links {} end,
      function() inside:nat_apply { table = "fcvm-a", egress = "deny" } end,
      function() inside:nat_apply { table = "fcvm-a", egress = {} } end,
      function() inside:nat_apply { table = "fcvm-a", egress = { link = "tap0", colour = 1 } } end,
      function() inside:nat_apply { table = "fcvm-a", egress = { link = "tap0", sets = { {} } } } end,
      function() inside:nat_apply { table = "fcvm-a", egress = { link = "tap0", sets = { { name = "x", networks = 1 } } } } end,
      function() inside:nat_apply { table = "fcvm-a", egress = { link = "t", sets = { { name = "x", networks = { 1 } } } } } end,
      function() inside:nat_apply { table = "fcvm-a", egress = { link = "tap0", allow = { { set = "x", port = 0 } } } } end,
      function() inside:set_add("fcvm-a", "x", { "1.2.3.4" }) end,
      function() inside:set_add("fcvm-a", "x", { { address = "1.2.3" } }) end,
      function() inside:set_add("fcvm-a", "x", { { address = "1.2.3.4", protocol = "tpc" } }) end,
      function() inside:set_add("fcvm-a", "x", { { address = "1.2.3.4", protocol = "256" } }) end,
      function() inside:set_add("fcvm-a", "x", { { address = "1.2.3.4", port = 65536 } }) end,
      function() inside:set_add("fcvm-a", "x", { { protocol = "tcp" } }) end,
      function() inside:set_add("fcvm-a", "x", {}, { colour = 1 }) end,
    }
    for i, call in ipairs(wrong) do
      assert.is_false(pcall(call), "call " .. i .. " raised nothing")
    end
    assert.same({}, inside:tables())
  end)

  it("closes twice, and a closed handle raises", function()
    local before = descriptors()
    local handle = assert(net.open(path))
    assert.matches("^network handle %(0x", tostring(handle))
    assert.is_true(descriptors() > before)
    assert.is_true(handle:close())
    assert.is_true(handle:close())
    assert.equal(before, descriptors())
    assert.equal("network handle (closed)", tostring(handle))
    for _, method in ipairs { "links", "addresses", "tables", "link_delete", "link_add_tap", "link_add_veth", "link_set",
      "address_add", "route_add", "forwarding", "nat_apply", "table_delete",
      "set_list", "set_add", "egress_settle" } do
      local ok, message = pcall(handle[method], handle, "x", {})
      assert.is_false(ok)
      assert.matches("this network handle is closed", message, 1, true)
    end
  end)

  it("is closed by its scope and by the collector", function()
    local before = descriptors()
    do
      local _handle <close> = assert(net.open())
    end
    assert.equal(before, descriptors())
    for _ = 1, 20 do assert(net.open(path)) end
    collectgarbage()
    collectgarbage()
    assert.equal(before, descriptors())
  end)

  it("does not grow by failing", function()
    local before = descriptors()
    for _ = 1, 50 do
      net.open(directory .. "/missing")
      net.open "/proc/self/ns/uts"
      inside:link_add_veth("lo", "x", peer)
      inside:link_add_tap "lo"
      net.namespace_create(path)
    end
    assert.equal(before, descriptors())
  end)
end)
