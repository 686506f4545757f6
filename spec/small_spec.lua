-- SPDX-License-Identifier: Apache-2.0
-- The small modules of the Lua layer.
describe("json", function()
  local json = require "fcvm.json"

  it("keeps 64-bit integers", function()
    assert.equal(9007199254740993, json.decode(json.encode { id = 9007199254740993 }).id)
  end)

  it("reads all that JSON has", function()
    assert.same({ a = { 1, -2.5e3, true, false, "q\"\\\n\u{e9}", {}, {} }, b = "" },
      json.decode(' {"a" : [1,-2.5e3,true,false,"q\\"\\\\\\n\\u00e9",[],{}],"b":""}\n', "it"))
    assert.equal(5, json.decode("5", "it"))
  end)

  it("writes empty arrays and objects as what they are", function()
    assert.equal("[]", json.encode(json.array()))
    assert.equal("{}", json.encode(json.object()))
  end)

  it("writes what it is given, in order, and nothing that is not there", function()
    assert.equal('{"a":[1,null,"x"],"b":{"c":true},"n":1000000000000}', json.encode { n = 10 ^ 12 // 1 | 0, a = { 1, nil, "x" },
      b = { c = true } })
    assert.equal('{"n":9}', json.encode { n = 9 })
    assert.equal('{"1":"a","100":"b"}', json.encode { "a", [100] = "b" })
    assert.equal('[\n  1,\n  {\n    "a":[]\n  }\n]', json.encode({ 1, { a = {} } }, true))
    assert.equal('[0.1,null,1e+300,"\\"\\u0000"]', json.encode { 0.1, 1 / 0, 1e300, '"\0' })
    assert.equal("[null]", json.encode { json.null })
    local cycle = {}
    cycle[1] = cycle
    for _, bad in ipairs { { print }, cycle, { [true] = 1 }, { coroutine.create(print) } } do
      local ok, err = pcall(json.encode, bad)
      assert.is_false(ok)
      assert.equal("write JSON", err.op)
    end
  end)

  it("says what is wrong with foreign text", function()
    for _, text in ipairs { "", "{", '{"a":}', "nonsense", ("["):rep(100000), "[1 2]", "[1,]", "{1:2}",
      '{"a" "b"}', "[1]x", "1 2", "]", '{"a":1]', "[1e999]", "[01x]",
      '["a]', "[tru]", "null", '/*"*/' .. ("["):rep(100000), "[1]//" } do
      local value, err = json.decode(text, "the text")
      assert.is_nil(value)
      assert.equal("EPROTO", err.name)
    end
    local _, err = json.decode(("x"):rep(100), "the text", 10)
    assert.equal("EFBIG", err.name)
  end)
end)

describe("machine", function()
  local machine = require "fcvm.machine"

  it("reads sizes", function()
    assert.equal(536870912, machine.size "512M")
    assert.equal(1610612736, machine.size "1.5GiB")
    assert.equal(1024, machine.size(1024))
    for _, bad in ipairs { "", "M", "12X", "-1M", "1e9", "99999999T" } do assert.has_error(function() machine.size(bad) end) end
  end)

  it("refuses what is long as fast as what is short", function()
    local began = os.clock()
    assert.has_error(function() machine.size(("9"):rep(100000)) end)
    assert.is_true(os.clock() - began < 1)
  end)

  it("refuses memory that no guest can have", function()
    for _, bad in ipairs { "127M", "1000T" } do
      local ok, err = pcall(machine.shape, bad, 1)
      assert.is_false(ok)
      assert.equal("EINVAL", err.name)
    end
    assert.same({ 128, 1 }, { machine.shape("128M", 1) })
    assert.is_false((pcall(machine.shape, "256M", 33)))
  end)
end)

describe("health", function()
  local health = require "fcvm.health"

  it("reads a URL or a table", function()
    local check = health.read "http://localhost:8080/ready?x=1"
    assert.equal(8080, check.port)
    assert.equal("/ready?x=1", check.path)
    assert.equal(80, health.read("http://guest").port)
    assert.equal("/", health.read("http://guest").path)
    assert.equal(81, health.read({ port = 81 }).port)
    assert.is_nil(health.read(nil))
  end)

  it("refuses what is none", function()
    for _, bad in ipairs { "https://x/", "localhost:80", "http://x:99999/", { prot = 80 }, "http://x/a b" } do
      assert.has_error(function() health.read(bad) end)
    end
  end)
end)

describe("stream.lines", function()
  local stream = require "fcvm.stream"

  it("gives lines across chunks, without their ends", function()
    local lines = {}
    local feed = stream.lines(8, function(line) lines[#lines + 1] = line end)
    for _, chunk in ipairs { "ab", "c\r\n\nde", "f\nlong", "er than eight\nx" } do feed(chunk) end
    feed(nil)
    assert.same({ "abc", "", "def", "longer t", "han eigh", "t", "x" }, lines)
  end)
end)

describe("stream.queue", function()
  local stream, task = require "fcvm.stream", require "fcvm.task"

  it("gives what was pushed before the error that ended it", function()
    task.main(function()
      local queue = stream.queue()
      task.spawn(function()
        task.sleep(0.001)
        queue:push "a"
        queue:push "b"
        queue:finish "over"
      end)
      assert.equal("a", queue:pop())
      assert.equal("b", queue:pop())
      assert.same({ nil, "over" }, { queue:pop() })
    end)
  end)
end)

describe("pretty", function()
  local pretty = require "fcvm.pretty"

  it("shows tables as Lua writes them", function()
    assert.equal('{ 1, "two", x = { true } }', pretty { 1, "two", x = { true } })
    assert.equal("{}", pretty {})
  end)

  it("ends at cycles, depth and control characters", function()
    local t = {}
    t.t = t
    assert.equal("{ t = {…} }", pretty(t))
    assert.equal([["\x1b[2J"]], pretty "\27[2J")
  end)
end)

describe("the REPL", function()
  local compile = require("fcvm.repl").compile

  it("takes values, statements and unfinished lines for what they are", function()
    assert.equal(3, compile("1 + 2", {})())
    local env = {}
    compile("x = 5", env)()
    assert.equal(5, env.x)
    local chunk, _, more = compile("function f()", {})
    assert.is_nil(chunk)
    assert.is_true(more)
    chunk, _, more = compile("x = = 1", {})
    assert.is_nil(chunk)
    assert.is_false(more)
  end)
end)

describe("log", function()
  it("lets no foreign text drive the terminal", function()
    assert.equal("a\\x1b[31mb\\x0a", require("fcvm.log").printable "a\27[31mb\n")
  end)
end)
