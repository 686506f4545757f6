-- SPDX-License-Identifier: Apache-2.0
-- fcvm.core.guest: frames in Lua, as a host uses them. What the C underneath does with them is tests/unit/test_guest.c.
local guest = require("fcvm.core").guest

describe("fcvm.core.guest", function()
  local types = guest.types

  it("names the types, limits, ports and versions of the protocol", function()
    assert.equal(1, types.HELLO)
    assert.equal(0x21, types.OUTPUT)
    assert.equal(65536, guest.limits.payload)
    assert.equal(65536, guest.limits.window)
    assert.equal(64, guest.limits.sessions)
    assert.same({ agent = 5200, ready = 5201 }, guest.ports)
    assert.is_true(guest.version >= guest.version_least)
  end)

  it("gives no two types one number", function()
    local seen = {}
    for name, number in pairs(types) do
      assert.is_nil(seen[number], name)
      seen[number] = name
    end
  end)

  it("encodes a header of eight bytes and the payload", function()
    assert.equal("\3\0\0\0\x21\2\0\0abc", guest.encode(types.OUTPUT, 2, "abc"))
    assert.equal("\0\0\0\0\x12\0\0\0", guest.encode(types.STATUS, 0))
  end)

  it("raises for what no frame can be", function()
    assert.has_error(function() guest.encode(0, 0, "") end)
    assert.has_error(function() guest.encode(256, 0, "") end)
    assert.has_error(function() guest.encode(1, 256, "") end)
    assert.has_error(function() guest.encode("HELLO", 0, "") end)
    assert.has_error(function() guest.encode(1, 0, ("x"):rep(65537)) end)
    assert.equal(65544, #guest.encode(1, 0, ("x"):rep(65536)))
  end)

  it("decodes what was encoded, however it is cut", function()
    local bytes = guest.encode(types.OUTPUT, 1, "one") .. guest.encode(types.STATUS, 0, "")
      .. guest.encode(types.OUTPUT, 2, "two")
    for step = 1, #bytes do
      local decoder <close> = guest.decoder()
      local seen = {}
      for at = 1, #bytes, step do
        assert.is_true(decoder:feed(bytes:sub(at, at + step - 1)))
        while true do
          local kind, stream, payload = decoder:next()
          if not kind then
            assert.is_nil(stream)
            break
          end
          seen[#seen + 1] = { kind, stream, payload }
        end
      end
      assert.same({ { types.OUTPUT, 1, "one" }, { types.STATUS, 0, "" }, { types.OUTPUT, 2, "two" } }, seen)
    end
  end)

  it("stays broken after a header that makes no sense", function()
    local decoder <close> = guest.decoder()
    decoder:feed "\1\0\1\0\x12\0\0\0"
    local kind, err = decoder:next()
    assert.is_nil(kind)
    assert.equal("EPROTO", err.name)
    assert.matches("over the limit", tostring(err))
    local fed, again = decoder:feed(guest.encode(types.STATUS, 0, ""))
    assert.is_nil(fed)
    assert.equal("EPROTO", again.name)
    assert.equal("EPROTO", select(2, decoder:next()).name)
  end)

  it("takes no more than it says at once", function()
    local decoder <close> = guest.decoder()
    local fed, err = decoder:feed(("x"):rep((1 << 20) + 1))
    assert.is_nil(fed)
    assert.equal("ENOBUFS", err.name)
  end)

  it("greets with itself, and with newer peers that still speak its version", function()
    assert.equal(guest.version, guest.check_hello(guest.hello()))
    assert.equal(guest.version, guest.check_hello("FCVM" .. string.pack("<I2I2", 900, 1)))
  end)

  it("refuses peers that it cannot speak with", function()
    local version, err = guest.check_hello("FCVM" .. string.pack("<I2I2", 900, 899))
    assert.is_nil(version)
    assert.equal("EPROTONOSUPPORT", err.name)
    for _, hello in ipairs { "", "FCVM", "HTTP/1.1", "FCVM\0\0\0\0", "FCVM\1\0\2\0" } do
      version, err = guest.check_hello(hello)
      assert.is_nil(version)
      assert.equal("EPROTO", err.name)
    end
  end)

  it("closes decoders twice, and raises for closed ones", function()
    local decoder = guest.decoder()
    decoder:feed "abc"
    assert.equal("decoder (3 bytes held)", tostring(decoder))
    decoder:close()
    decoder:close()
    assert.equal("decoder (closed)", tostring(decoder))
    assert.has_error(function() decoder:next() end, "this decoder is closed")
    assert.has_error(function() decoder:feed "" end, "this decoder is closed")
  end)

  it("frees a decoder that is collected with bytes in it", function()
    local weak = setmetatable({ guest.decoder() }, { __mode = "v" })
    weak[1]:feed(("x"):rep(100))
    collectgarbage()
    collectgarbage()
    assert.is_nil(weak[1])
  end)

  it("raises where it is called with something else", function()
    assert.has_error(function() guest.decoder().feed({}, "") end)
    assert.has_error(function() guest.decoder():feed(nil) end)
    assert.has_error(function() guest.check_hello() end)
  end)
end)
