-- SPDX-License-Identifier: Apache-2.0
-- Who resolves names for a guest, and the relay to resolvers that only the host can ask.
describe("resolvers", function()
  local resolvers = require "fcvm.resolvers"
  local uv = require "luv"

  local function file(text)
    local path = os.tmpname()
    local out = assert(io.open(path, "w"))
    out:write(text)
    out:close()
    return path
  end

  it("are read from resolv.conf, bounded", function()
    local read = resolvers.read("# nameserver 9.9.9.9\nnameserver 1.1.1.1\nnameserver fe80::1\n nameserver\t2.2.2.2 \n"
      .. "nameserver 3.3.3.3\nnameserver 4.4.4.4\ndomain old.example\nsearch a.example  b.example\noptions edns0\n")
    assert.same({ "1.1.1.1", "2.2.2.2", "3.3.3.3" }, read.servers)
    assert.same({ "a.example", "b.example" }, read.search)
    assert.same({}, resolvers.read("search " .. ("a"):rep(254) .. " -x .y").search)
    assert.equal(6, #resolvers.read("search a b c d e f g h").search)
    assert.same({ servers = {}, search = {} }, resolvers.read "\0\255nameserver 999.1.1.1")
  end)

  it("of the host are those that others can ask, else its loopback's by a relay", function()
    local stub, real = file "nameserver 127.0.0.53\nsearch x.example\n", file "nameserver 10.1.1.1\nsearch y.example\n"
    local none, mixed = file "", file "nameserver 127.0.0.1\nnameserver 10.2.2.2\n"
    local found = resolvers.of_host { stub, real }
    assert.same({ "10.1.1.1" }, found.servers)
    assert.is_nil(found.relay)
    assert.same({ "x.example" }, found.search)
    found = resolvers.of_host { stub, none }
    assert.same({ "127.0.0.53" }, found.servers)
    assert.is_true(found.relay)
    assert.same({ "10.2.2.2" }, resolvers.of_host({ mixed, real }).servers)
    found = resolvers.of_host { none, "/nonexistent" }
    assert.same({}, found.servers)
    assert.is_nil(found.relay)
    for _, path in ipairs { stub, real, none, mixed } do uv.fs_unlink(path) end
  end)

  it("that a user names are checked", function()
    assert.same({ dns = { "1.1.1.1" }, dns_search = { "a.example" }, hosts = { db = "10.0.0.5", ["x.y"] = "1.2.3.4" } },
      resolvers.check { dns = "1.1.1.1", dns_search = { "a.example" }, add_host = { "db:10.0.0.5", "x.y:1.2.3.4" } })
    assert.same({}, resolvers.check { dns = {}, dns_search = {}, add_host = {} })
    for _, wrong in ipairs { { dns = "one" }, { dns = { "1.1.1.1", "1.1.1.1", "1.1.1.1", "1.1.1.1" } }, { dns = "1.1.1.1\n" },
      { dns_search = "a b" }, { dns_search = { true } }, { dns_search = "a\nnameserver 6.6.6.6" }, { add_host = "db" },
      { add_host = "db:" }, { add_host = ":1.1.1.1" }, { add_host = "a b:1.1.1.1" }, { add_host = "db:1.1.1.1\n6.6.6.6 other" },
      { add_host = "db:host-gateway" } } do
      local ok, err = pcall(resolvers.check, wrong)
      assert.is_false(ok, tostring(next(wrong)))
      assert.equal(64, err.status)
    end
    assert.same({ "127.0.0.9" }, resolvers.choose({ "127.0.0.9" }).servers)
    assert.is_true(resolvers.choose({ "127.0.0.9" }).relay)
  end)
end)

describe("the relay of names #root", function()
  local core = require "fcvm.core"
  local dns_relay = require "fcvm.dns_relay"
  local fcvm = require "fcvm"
  local task = require "fcvm.task"
  local uv = require "luv"

  local ADDRESS = "172.16.0.1"
  local directory, namespace

  before_each(function()
    directory = assert(uv.fs_mkdtemp "/tmp/fcvm-spec-relay-XXXXXX")
    namespace = directory .. "/ns"
    assert(core.net.namespace_create(namespace))
    local inside <close> = assert(core.net.open(namespace))
    assert(inside:link_set("lo", { up = true }))
    assert(inside:address_add("lo", ADDRESS .. "/32"))
  end)

  after_each(function()
    assert(core.net.namespace_remove(namespace))
    uv.fs_rmdir(directory)
  end)

  -- A resolver of the host's loopback: answers each question with itself and a word behind it; "silent" is never answered.
  local function resolver(ip, word, port)
    local udp, tcp = uv.new_udp(), uv.new_tcp()
    assert(udp:bind(ip, port or 0))
    port = udp:getsockname().port
    udp:recv_start(function(_, question, from)
      if question and not question:find "silent" then udp:send(question .. word, from.ip, from.port, function() end) end
      -- What was not asked is no answer.
      if question and question:find "forged" then
        udp:send("xx" .. question:sub(3) .. "forged", from.ip, from.port, function() end)
      end
    end)
    assert(tcp:bind(ip, port))
    tcp:listen(9, function()
      local client = uv.new_tcp()
      tcp:accept(client)
      client:read_start(function(_, data)
        if data then client:write(data .. word) else client:close() end
      end)
    end)
    task.defer(function()
      udp:close()
      tcp:close()
    end)
    return port
  end

  -- Asks from within the namespace.
  local function ask(question, seconds)
    local fd = assert(core.net.socket(namespace, nil, "udp"))
    local socket = uv.new_udp()
    assert(socket:open(fd))
    local ok, answer = pcall(task.timeout, seconds or 5, "an answer", task.await, function(resume)
      socket:recv_start(function(_, data) if data then resume(data) end end)
      socket:send(question, ADDRESS, 53, function() end)
    end)
    socket:close()
    return ok and answer or nil
  end

  local function ask_by_connection(question)
    local fd = assert(core.net.socket(namespace))
    local socket = uv.new_tcp()
    assert(socket:open(fd))
    local answer = task.timeout(5, "an answer", task.await, function(resume)
      socket:connect(ADDRESS, 53, function(failed)
        if failed then return resume(failed) end
        socket:read_start(function(_, data) resume(data) end)
        socket:write(question)
      end)
    end)
    socket:close()
    return answer
  end

  local function test(name, body) it(name, function() task.main(body) end) end

  test("passes questions and answers on, by datagrams and by connections", function()
    local port = resolver("127.0.0.53", "!")
    dns_relay.start(namespace, ADDRESS, { servers = { "127.0.0.53" }, port = port })
    assert.equal("0123456789abcd!", ask "0123456789abcd")
    assert.equal("0123456789forged!", ask "0123456789forged")
    assert.equal("0123456789abcd!", ask_by_connection "0123456789abcd")
    assert.is_nil(ask("short", 0.3))
    local many = fcvm.parallel(100, function(i) return ask(("question %05d"):format(i), 10) end)
    for i = 1, 100 do assert.equal(("question %05d!"):format(i), many[i]) end
  end)

  test("asks the next one where the first is silent, and gives up on all", function()
    local port = resolver("127.0.0.54", "second")
    dns_relay.start(namespace, ADDRESS, { servers = { "127.0.0.55", "127.0.0.54" }, port = port })
    assert.equal("0123456789abcdsecond", ask("0123456789abcd", 5))
    assert.is_nil(ask("0123456789silent", 2.5))
  end)

  test("leaves to members of a named network what they answer themselves", function()
    local port = resolver("127.0.0.53", "!")
    local members = { answer = function(_, question) return question:find "member" and "own answer" or nil end }
    dns_relay.start(namespace, ADDRESS, { servers = { "127.0.0.53" }, port = port }, nil, members)
    assert.equal("own answer", ask "0123456789 member")
    assert.equal("0123456789abcd!", ask "0123456789abcd")
    assert.equal("\0\10own answer", ask_by_connection((">s2"):pack "0123456789 member"))
    assert.equal((">s2"):pack "0123456789abcd" .. "!", ask_by_connection((">s2"):pack "0123456789abcd"))
  end)

  test("ends with its scope, with questions under way", function()
    local port = resolver("127.0.0.53", "!")
    task.scope(function()
      dns_relay.start(namespace, ADDRESS, { servers = { "127.0.0.53" }, port = port })
      assert.equal("0123456789abcd!", ask "0123456789abcd")
      fcvm.spawn(ask, "0123456789silent", 0.2)
      task.sleep(0.05)
    end)
    assert.is_nil(ask("0123456789abcd", 0.3))
  end)
end)
