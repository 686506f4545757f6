-- SPDX-License-Identifier: Apache-2.0
describe("fcvm.core.vmm", function()
  local uv = require "luv"
  local vmm = require("fcvm.core").vmm
  local task = require "fcvm.task"

  -- The first stream has libuv open a spare descriptor that stays with the loop: not in the middle of a test.
  uv.new_tcp():close()
  uv.run "nowait"

  -- Runs `fn(socket, server)` in a task, beside a server in Firecracker's place answering calls with `reply` (nil: never).
  local function with_server(reply, fn)
    local server = { asked = "" }
    local dir = assert(uv.fs_mkdtemp "/tmp/fcvm-spec-vmm-XXXXXX")
    local listener = uv.new_pipe(false)
    local clients = {}
    assert(listener:bind(dir .. "/api.sock"))
    assert(listener:listen(64, function()
      local client = uv.new_pipe(false)
      listener:accept(client)
      clients[#clients + 1] = client
      client:read_start(function(_, chunk)
        if not chunk then return end
        server.asked = server.asked .. chunk
        if reply and server.asked:find("\r\n\r\n", 1, true) then client:write(reply) end
      end)
    end))
    local ok, err = pcall(task.main, function() fn(dir .. "/api.sock", server) end)
    for _, client in ipairs(clients) do client:close() end
    listener:close()
    uv.run()
    uv.fs_unlink(dir .. "/api.sock")
    assert(uv.fs_rmdir(dir))
    if not ok then error(err, 0) end
  end

  local function call(...)
    local request <close> = assert(vmm.request(...))
    while true do
      local answer, more = request:step()
      if answer or more then return answer, more end
      task.readable(request:fileno(), 10, "the call")
    end
  end

  it("gives status and body", function()
    with_server('HTTP/1.1 200 \r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}', function(socket, server)
      local answer, body = call(socket, "PUT", "/vsock", '{"guest_cid":3}', 5)
      assert.equal(200, answer.status)
      assert.equal("application/json", answer.headers["content-type"])
      assert.equal("{}", answer.body)
      assert.equal("{}", body)
      assert.matches("^PUT /vsock HTTP/1.1\r\n", server.asked)
      assert.matches('\r\n\r\n{"guest_cid":3}', server.asked, 1, true)
    end)
    with_server("HTTP/1.1 204 \r\n\r\n", function(socket)
      local answer, body = call(socket, "PATCH", "/vm", '{"state":"Paused"}')
      assert.equal(204, answer.status)
      assert.equal("", body)
    end)
  end)

  it("passes a refusal on in Firecracker's words", function()
    with_server('HTTP/1.1 400 \r\nContent-Length: 37\r\n\r\n{"fault_message":"No such kernel \\n"}', function(socket)
      local answer, err = call(socket, "PUT", "/boot-source", "{}")
      assert.is_nil(answer)
      assert.equal("EINVAL", err.name)
      assert.equal("Firecracker PUT /boot-source: No such kernel", tostring(err))
    end)
  end)

  it("fails with what went wrong", function()
    task.main(function()
      local answer, err = call("/nowhere/api.sock", "GET", "/version")
      assert.is_nil(answer)
      assert.equal("ENOENT", err.name)
      assert.equal("Firecracker GET /version: connect", err.op)
    end)
    with_server(nil, function(socket)
      local _, err = call(socket, "GET", "/version", nil, 0.05)
      assert.equal("ETIMEDOUT", err.name)
    end)
    local request, err = vmm.request("/nowhere", "GET", "version")
    assert.is_nil(request)
    assert.equal("EINVAL", err.name)
  end)

  it("raises on misuse", function()
    for _, arguments in ipairs { {}, { "/s" }, { "/s", "GET" }, { "/s", "GET", "/a\0b" }, { "/s", "GET", "/", {} },
      { "/s", "GET", "/", nil, 0 }, { "", "GET", "/" } } do
      assert.has_error(function() vmm.request(table.unpack(arguments, 1, 5)) end)
    end
  end)

  it("may be closed twice and while it is under way, and raises once it is closed", function()
    with_server(nil, function(socket)
      local request = assert(vmm.request(socket, "GET", "/"))
      assert.is_nil(request:step())
      assert.matches("^fcvm.vmm.call: ", tostring(request))
      request:close()
      request:close()
      assert.equal("fcvm.vmm.call (closed)", tostring(request))
      assert.has_error(function() request:step() end, "this call is closed")
      assert.has_error(function() request:fileno() end, "this call is closed")
      assert.has_error(function() request.step(io.stdout) end)
    end)
  end)

  it("ends its connection when it is collected while it is under way", function()
    with_server(nil, function(socket)
      local fd
      do
        local request = assert(vmm.request(socket, "GET", "/"))
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
