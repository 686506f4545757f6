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
      "address_add", "route_add", "forwarding", "nat_apply", "table_delete" } do
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
