-- SPDX-License-Identifier: Apache-2.0
-- Requests between fcvm's processes.
describe("control", function()
  local control = require "fcvm.control"
  local errors = require "fcvm.errors"
  local task = require "fcvm.task"
  local unix = require "fcvm.unix"
  local uv = require "luv"

  -- Runs `body(dir)` while `handlers` are served in a directory of its own.
  local function serving(handlers, body)
    task.main(function()
      local dir = uv.fs_mkdtemp "/tmp/fcvm-control.XXXXXX"
      task.scope(function()
        control.serve(dir, handlers, "the object")
        body(dir)
      end)
      assert.is_truthy(uv.fs_rmdir(dir))
    end)
  end

  it("answers, tells how far it is, and passes errors on", function()
    serving({
      add = function(object, arguments, peer)
        assert.equal("the object", object)
        peer:progress "half"
        task.sleep(0.001)
        return { sum = arguments.a + arguments.b }
      end,
      nothing = function() end,
      refuse = function() errors.raise { op = "refuse", subject = "it", name = "EBUSY", message = "not now", hint = "later" } end,
      break_down = function() error "a bug" end,
    }, function(dir)
      local heard = {}
      local connection <close> = control.connect(dir, "the server")
      assert.same({ sum = 5 }, connection:ask("add", { a = 2, b = 3 }, { on_progress = function(p) heard[#heard + 1] = p end }))
      assert.same({ "half" }, heard)
      assert.same({}, connection:ask "nothing")
      local ok, err = pcall(connection.ask, connection, "refuse")
      assert.is_false(ok)
      assert.equal("refuse it: not now (later)", tostring(err))
      assert.equal(errors.status.temporary, errors.exit_status(err))
      ok, err = pcall(connection.ask, connection, "break_down")
      assert.is_false(ok)
      assert.matches("a bug", tostring(err))
      assert.same({ sum = 1 }, control.call(dir, "the server", "add", { a = 0, b = 1 }))
    end)
  end)

  it("ends while a request is under way", function()
    task.main(function()
      local dir = uv.fs_mkdtemp "/tmp/fcvm-control.XXXXXX"
      local began, asking, connection
      task.timeout(5, "the server's end", task.scope, function()
        control.serve(dir, { wait = function()
          began = true
          task.sleep(60)
        end }, "the object")
        connection = control.connect(dir, "the server")
        asking = task.background(connection.ask, connection, "wait", {}, { timeout = 60 })
        task.timeout(5, "the request to arrive", function() while not began do task.sleep(0.001) end end)
      end)
      local ok, err = pcall(asking.join, asking)
      connection:close()
      assert.is_truthy(uv.fs_rmdir(dir))
      assert.same({ false, "EPIPE" }, { ok, err.name })
    end)
  end)

  it("does not know what it does not serve, nor what is no request", function()
    serving({ known = function() return {} end }, function(dir)
      assert.is_false((pcall(control.call, dir, "the server", "unknown")))
      for _, text in ipairs { "no JSON\n", "[1]\n", "{\"op\":7}\n", ("x"):rep(2 << 20), ("{}\n"):rep(100) } do
        local pipe = assert(unix.connect(dir, control.socket))
        local ended = task.timeout(10, "the end of the connection", task.await, function(resume)
          pipe:read_start(function(_, chunk) if not chunk then resume(true) end end)
          pipe:write(text)
        end)
        pipe:close()
        assert.is_true(ended)
      end
      assert.same({}, control.call(dir, "the server", "known"))
    end)
  end)

  it("cancels what was asked for when the one who asked goes, and says so", function()
    local cancelled, closed
    serving({ wait = function(_, _, peer)
      peer:on_close(function() closed = true end)
      task.defer(function() cancelled = true end)
      task.sleep(100)
    end }, function(dir)
      local connection = control.connect(dir, "the server")
      local asking = task.spawn(pcall, connection.ask, connection, "wait")
      task.sleep(0.02)
      asking:cancel()
      connection:close()
      task.timeout(5, "the cancellation", function() while not closed do task.sleep(0.005) end end)
    end)
    assert.is_true(cancelled)
  end)

  it("tells both sides of the other's end", function()
    task.main(function()
      local dir = uv.fs_mkdtemp "/tmp/fcvm-control.XXXXXX"
      local gone
      local connection
      task.scope(function()
        control.serve(dir, { hang = function() task.sleep(100) end })
        connection = control.connect(dir, "the server")
        connection.on_gone = function() gone = true end
      end)
      task.timeout(5, "the end", function() while not gone do task.sleep(0.005) end end)
      local ok, err = pcall(connection.ask, connection, "hang")
      assert.is_false(ok)
      assert.equal("EPIPE", err.name)
      connection:close()
      ok, err = pcall(control.connect, dir, "the server")
      assert.is_false(ok)
      assert.matches("it does not answer", tostring(err))
      uv.fs_rmdir(dir)
    end)
  end)

  it("works in a directory whose path is longer than an address", function()
    task.main(function()
      local top = uv.fs_mkdtemp "/tmp/fcvm-control.XXXXXX"
      local dir = top .. "/" .. ("d"):rep(120)
      uv.fs_mkdir(dir, 448)
      task.scope(function()
        control.serve(dir, { known = function() return { fine = true } end })
        assert.same({ fine = true }, control.call(dir, "the server", "known"))
      end)
      assert.is_truthy(uv.fs_rmdir(dir) and uv.fs_rmdir(top))
    end)
  end)
end)
