-- SPDX-License-Identifier: Apache-2.0
-- What -p means, and the host's ports as they are held. The way through a VM's network is in kvm_spec.
describe("publish", function()
  local fcvm = require "fcvm"
  local publish = require "fcvm.publish"
  local task = require "fcvm.task"
  local uv = require "luv"

  local function texts(...)
    local list = {}
    for i, port in ipairs(publish.parse { ... }) do list[i] = publish.text(port) end
    return list
  end

  it("reads ports as podman does", function()
    assert.same({ "0.0.0.0:8080->80/tcp" }, texts "8080:80")
    assert.same({ "127.0.0.1:8080->80/tcp" }, texts "127.0.0.1:8080:80")
    assert.same({ "0.0.0.0:53->5353/udp" }, texts "53:5353/udp")
    assert.same({ "0.0.0.0:0->80/tcp", "10.1.2.3:0->80/tcp" }, texts("0:80", "10.1.2.3::80/tcp"))
    assert.same({ "0.0.0.0:8000->80/tcp", "0.0.0.0:8001->81/tcp", "0.0.0.0:7->7/udp" },
      texts("8000-8001:80-81", "0.0.0.0:7:7/udp"))
    assert.equal(10, #texts "0:80-89")
    assert.same({}, publish.parse(nil))
    assert.same({ "8080:8080" }, publish.list(8080))
    assert.is_nil(publish.list {})
  end)

  it("says what is no port", function()
    for text, why in pairs {
      [""] = "no port to publish", ["80"] = "no port to publish", ["80:"] = "no port to publish", ["a:80"] = "no port to publish",
      ["80:80/sctp"] = "tcp or udp", ["65536:80"] = "'65536'", ["80:0"] = "'0'", ["80:65536"] = "'65536'",
      ["8000-8001:80"] = "same length", ["0-3:80-83"] = "begins no range", ["9-8:9-8"] = "'9%-8'", ["-1:80"] = "'%-1'",
      ["1-2-3:80"] = "'1%-2%-3'", ["256.1.1.1:80:80"] = "no IPv4 address", ["1.2.3:80:80"] = "no IPv4 address",
      ["[::1]:80:80"] = "IPv4 alone", ["99999999999999999999:80"] = "no port or range", ["1-1025:1-1025"] = "over the limit",
    } do
      local ok, err = pcall(publish.parse, { text })
      assert.is_false(ok, text)
      assert.matches(why, tostring(err))
      assert.equal(64, err.status, text)
    end
    assert.is_false((pcall(publish.list, { true })))
  end)

  local function listen(ip, port)
    local socket = uv.new_tcp()
    socket:bind(ip, port)
    local ok, _, code = socket:listen(1, function() end)
    return socket, ok and socket:getsockname().port, code
  end

  it("holds a port as long as its scope lasts", function()
    task.main(function()
      local port
      task.scope(function()
        local held = publish.hold(publish.parse { "127.0.0.1:0:80", "127.0.0.1:0:53/udp" })
        port = held[1].host_port
        assert.is_true(port > 0 and held[2].host_port > 0)
        assert.same({ "127.0.0.1", 80, "tcp" }, { held[1].ip, held[1].guest_port, held[1].protocol })
        local other, _, code = listen("127.0.0.1", port)
        other:close()
        assert.equal("EADDRINUSE", code)
        local udp = uv.new_udp()
        assert.equal("EADDRINUSE", select(3, udp:bind("127.0.0.1", held[2].host_port)))
        udp:close()
        -- Another address's is free.
        local beside, got = listen("127.0.0.2", port)
        beside:close()
        assert.equal(port, got)
      end)
      local again, got = listen("127.0.0.1", port)
      again:close()
      assert.equal(port, got)
    end)
  end)

  it("says which process has a port that is taken", function()
    task.main(function()
      local me = ("process %d"):format(uv.os_getpid())
      local tcp, number = listen("127.0.0.1", 0)
      fcvm.defer(function() tcp:close() end)
      local udp = uv.new_udp()
      fcvm.defer(function() udp:close() end)
      udp:bind("0.0.0.0", 0)
      for text, who in pairs { ["127.0.0.1:" .. number .. ":80"] = me, [number .. ":80"] = me,
        [udp:getsockname().port .. ":80/udp"] = me } do
        local ok, err = pcall(task.scope, publish.hold, publish.parse { "127.0.0.1:0:1", text })
        assert.is_false(ok)
        assert.equal("EADDRINUSE", err.name)
        assert.matches(who, tostring(err), 1, true)
        assert.equal(75, err.status)
      end
      local ok, err = pcall(task.scope, publish.hold, publish.parse { "192.0.2.1:80:80" })
      assert.is_false(ok)
      assert.matches("no address 192.0.2.1", tostring(err), 1, true)
    end)
  end)
end)
