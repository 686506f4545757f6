-- SPDX-License-Identifier: Apache-2.0
describe("fcvm.core.http", function()
  local uv = require "luv"
  local http = require("fcvm.core").http
  local task = require "fcvm.task"

  -- The first stream has libuv open a spare descriptor that stays with the loop: not in the middle of a test.
  uv.new_tcp():close()
  uv.run "nowait"

  -- Runs `fn(url, server)` in a task, beside a server on this loop that answers every connection with `reply` (nil: never).
  -- `server.asked` is what the last client sent.
  local function with_server(reply, fn)
    local server = { asked = "" }
    local listener = uv.new_tcp()
    local clients = {}
    assert(listener:bind("127.0.0.1", 0))
    assert(listener:listen(64, function()
      local client = uv.new_tcp()
      listener:accept(client)
      clients[#clients + 1] = client
      client:read_start(function(_, chunk)
        if not chunk then return end
        server.asked = server.asked .. chunk
        if reply and server.asked:find("\r\n\r\n", 1, true) then
          client:write(reply, function() if not client:is_closing() then client:close() end end)
        end
      end)
    end))
    local ok, err = pcall(task.main, function()
      fn(("http://127.0.0.1:%d/"):format(listener:getsockname().port), server)
    end)
    for _, client in ipairs(clients) do if not client:is_closing() then client:close() end end
    listener:close()
    uv.run()
    if not ok then error(err, 0) end
  end

  local function finish(request)
    while true do
      local answer, err = request:step()
      if answer or err then return answer, err end
      task.readable(request:fileno(), 10, "the request")
    end
  end

  local function ask(options)
    local request <close> = assert(http.request(options))
    return finish(request)
  end

  local function fails(name, value, err)
    assert.is_nil(value)
    assert.equal(name, err.name)
    return err
  end

  it("gives status, headers and body", function()
    with_server("HTTP/1.1 201 Created\r\nX-One: a\r\nx-one: b\r\nContent-Length: 3\r\n\r\na\0b", function(url, server)
      assert.same({ status = 201, headers = { ["x-one"] = "a, b", ["content-length"] = "3" }, body = "a\0b" },
        ask { url = url .. "path", method = "PUT", headers = { "X-Two: c" }, body = "d\0e", timeout = 5 })
      assert.matches("^PUT /path HTTP/1.1\r\n", server.asked)
      assert.matches("\r\nX-Two: c\r\n", server.asked, 1, true)
      assert.equal("d\0e", server.asked:sub(-3))
    end)
  end)

  it("gives the end again as often as it is asked for", function()
    with_server("HTTP/1.1 204 No Content\r\n\r\n", function(url)
      local request <close> = assert(http.request { url = url })
      local first = finish(request)
      assert.same({ status = 204, headers = {}, body = "" }, first)
      assert.same(first, request:step())
      task.readable(request:fileno(), 1, "the request that has ended")
    end)
  end)

  it("fails with what went wrong", function()
    with_server(nil, function(url)
      local err = fails("ETIMEDOUT", ask { url = url, timeout = 0.05 })
      assert.equal(url, err.subject)
    end)
    with_server("HTTP/1.1 200 OK\r\n\r\n0123456789", function(url)
      fails("EFBIG", ask { url = url, max_body = 9 })
      assert.equal("0123456789", ask({ url = url, max_body = 10 }).body)
    end)
    with_server("garbage\r\n\r\n", function(url) fails("EPROTO", ask { url = url }) end)
    task.main(function() fails("ENOENT", ask { url = "http://localhost/", unix = "/nowhere/socket" }) end)
    fails("EPROTONOSUPPORT", http.request { url = "file:///etc/passwd" })
    fails("EINVAL", http.request { url = "http://localhost/", headers = { "X: y\r\nZ: z" } })
  end)

  it("runs many at once on one loop", function()
    with_server("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", function(url)
      for _, answer in ipairs(task.parallel(20, function() return ask { url = url } end)) do
        assert.equal("ok", answer.body)
      end
    end)
  end)

  it("raises on misuse", function()
    local url = "http://127.0.0.1:1/"
    for _, options in ipairs {
      {}, { url = 1 }, { url = "http://a\0b/" }, { url = url, timeout = 0 }, { url = url, timeout = 0 / 0 },
      { url = url, timeout = 1 << 40 }, { url = url, max_body = 0 }, { url = url, headers = "X: y" },
      { url = url, headers = { 1 } }, { url = url, headers = { "X: \0" } }, { url = url, body = 1 },
      { url = url, nosuch = true }, { url = url, follow = 1 }, { url = url, method = "G\0ET" },
    } do
      assert.has_error(function() http.request(options) end)
    end
    assert.has_error(function() http.request() end)
  end)

  it("may be closed twice and while it is under way, and raises once it is closed", function()
    with_server(nil, function(url)
      local request = assert(http.request { url = url })
      assert.is_nil(request:step())
      assert.matches("^fcvm.http.request: ", tostring(request))
      request:close()
      request:close()
      assert.equal("fcvm.http.request (closed)", tostring(request))
      assert.has_error(function() request:step() end, "this request is closed")
      assert.has_error(function() request:fileno() end, "this request is closed")
      assert.has_error(function() request.step(io.stdout) end)
    end)
  end)

  it("ends its connection when it is collected while it is under way", function()
    with_server(nil, function(url)
      local fd
      do
        local request = assert(http.request { url = url })
        request:step()
        fd = request:fileno()
      end
      assert.is_truthy(uv.fs_fstat(fd))
      collectgarbage()
      collectgarbage()
      local stat, _, name = uv.fs_fstat(fd)
      assert.is_nil(stat)
      assert.equal("EBADF", name)
    end)
  end)
end)
