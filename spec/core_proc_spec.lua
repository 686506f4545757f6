-- SPDX-License-Identifier: Apache-2.0
-- The binding of core/proc: what Lua sees. The processes themselves are tests/unit/test_proc.c's.
local uv = require "luv"
local proc = require("fcvm.core").proc

local LIMIT_MS = 20000

-- Waits until `fd` is readable, by the loop; fails past the limit, saying what was waited for.
local function await(fd, what)
  local poll, timer, ready = uv.new_poll(fd), uv.new_timer(), false
  poll:start("r", function()
    ready = true
    uv.stop()
  end)
  timer:start(LIMIT_MS, 0, function() uv.stop() end)
  uv.run()
  poll:close()
  timer:close()
  uv.run "nowait"
  assert(ready, ("waited %d ms for %s"):format(LIMIT_MS, what))
end

local function ended(child)
  await(child:fileno(), "a child's end")
  return child:wait()
end

local function read_all(fd)
  local parts = {}
  repeat
    await(fd, "output")
    local chunk = assert(proc.read_fd(fd, 4096))
    parts[#parts + 1] = chunk
  until chunk == ""
  return table.concat(parts)
end

-- Starts `options` with its output in a pipe; the child and the pipe's reading end.
local function piped(options)
  local reader, writer = proc.pipe()
  options.fds = options.fds or {}
  options.fds[1] = writer
  local child, err = proc.spawn(options)
  proc.close(writer)
  if not child then proc.close(reader) end
  assert(child, err)
  return child, reader
end

local function output(options)
  local child <close>, reader = piped(options)
  local text = read_all(reader)
  proc.close(reader)
  assert.same({ status = 0 }, ended(child))
  return text
end

-- A child that has said that it runs and stays; its pipe ends when it and all that it started have ended.
local function holder(options)
  options = options or {}
  options.argv = options.argv or { "sh", "-c", "echo up; exec sleep 1000" }
  local child, reader = piped(options)
  await(reader, "a program to be up")
  assert.equal("up\n", proc.read_fd(reader, 100))
  return child, reader
end

local function expect_end(reader)
  assert.equal("", read_all(reader))
  proc.close(reader)
end

local function collect()
  collectgarbage()
  collectgarbage()
end

describe("proc.spawn", function()
  it("runs a program and says how it ended, again and again", function()
    local child <close> = assert(proc.spawn { argv = { "sh", "-c", "exit 7" } })
    assert.equal("integer", math.type(child.pid))
    assert.same({ status = 7 }, ended(child))
    assert.same({ status = 7 }, child:wait())
    local killed <close> = assert(proc.spawn { argv = { "sh", "-c", "kill -TERM $$" } })
    assert.same({ signal = 15 }, ended(killed))
  end)

  it("does not wait for what still runs", function()
    local child, reader = holder()
    assert.is_nil(child:wait())
    child:close()
    expect_end(reader)
  end)

  it("gives environment, directory, descriptors and mask", function()
    assert.equal("A=1\nB=two words\n", output { argv = { "env" }, env = { "A=1", "B=two words" } })
    assert.equal("", output { argv = { "env" }, env = {} })
    assert.equal("/usr/bin\n", output { argv = { "pwd" }, cwd = "/usr/bin" })
    assert.equal("0027\n", output { argv = { "sh", "-c", "umask" }, umask = 23 })
    local fd = assert(proc.memfd("input", "from memory"))
    assert.equal("from memory", output { argv = { "cat" }, fds = { [0] = fd } })
    proc.close(fd)
  end)

  it("swaps descriptors", function()
    local a, b = assert(proc.memfd("a", "A")), assert(proc.memfd("b", "B"))
    local text = output { argv = { "sh", "-c", ('cat /dev/fd/%d; cat /dev/fd/%d'):format(a, b) },
      fds = { [a] = b, [b] = a } }
    assert.equal("BA", text)
    proc.close(a)
    proc.close(b)
  end)

  it("inherits our environment where none is given", function()
    assert.matches("PATH=", output { argv = { "env" } }, 1, true)
  end)

  it("starts a session", function()
    local script = "read pid comm state ppid pgrp session rest < /proc/self/stat; echo $pid $session"
    local text = output { argv = { "sh", "-c", script }, session = true }
    local pid, session = text:match "(%d+) (%d+)"
    assert.equal(pid, session)
  end)

  it("gives what failed, by name, before it returns", function()
    local child, err = proc.spawn { argv = { "fcvm-no-such-program" }, env = { "PATH=/usr/bin:/bin" } }
    assert.is_nil(child)
    assert.equal("ENOENT", err.name)
    assert.equal("execute", err.op)
    assert.equal("fcvm-no-such-program", err.subject)
    assert.equal("execute fcvm-no-such-program: No such file or directory", tostring(err))
    child, err = proc.spawn { argv = { "/etc/passwd" } }
    assert.is_nil(child)
    assert.equal("EACCES", err.name)
    child, err = proc.spawn { argv = { "true" }, cwd = "/nonexistent" }
    assert.is_nil(child)
    assert.equal("enter directory /nonexistent: No such file or directory", tostring(err))
    child, err = proc.spawn { argv = { "true" }, fds = { [0] = 9999 } }
    assert.is_nil(child)
    assert.equal("EBADF", err.name)
    child, err = proc.spawn { argv = {} }
    assert.is_nil(child)
    assert.equal("EINVAL", err.name)
  end)

  it("raises where it is misused", function()
    for options, message in pairs {
      [{}] = "'argv' must be a list of strings",
      [{ argv = "true" }] = "'argv' must be a list of strings",
      [{ argv = { "true", 1 } }] = "item 2 is a number",
      [{ argv = { "a\0b" } }] = "NUL byte",
      [{ argv = { "true" }, env = { A = 1, {} } }] = "item 1 is a table",
      [{ argv = { "true" }, fds = { a = 1 } }] = "'fds' must be",
      [{ argv = { "true" }, fds = { [0] = -1 } }] = "'fds' must be",
      [{ argv = { "true" }, fds = { [0] = 1.5 } }] = "'fds' must be",
      [{ argv = { "true" }, fds = 1 }] = "'fds' must be a table",
      [{ argv = { "true" }, contain = 1 }] = "'contain' must be true or false",
      [{ argv = { "true" }, umask = 4096 }] = "'umask' is 4096",
      [{ argv = { "true" }, cwd = "/usr\0/bin" }] = "'cwd' has a NUL byte in it",
      [{ argv = { "true" }, netns = 1 }] = "'netns' must be a string",
      [{ argv = { "true" }, sessions = true }] = "unknown option 'sessions'",
    } do
      local ok, err = pcall(proc.spawn, options)
      assert.is_false(ok)
      assert.matches(message, err, 1, true)
    end
    assert.has_error(function() proc.spawn() end)
  end)

  it("signals", function()
    local input, never = proc.pipe()
    local child, reader = holder { argv = { "sh", "-c", "trap 'exit 3' TERM; echo up; read x; exit 4" },
      fds = { [0] = input } }
    proc.close(input)
    assert.is_true(child:kill(proc.signal_names.TERM))
    assert.same({ status = 3 }, ended(child))
    proc.close(never)
    local ok, err = child:kill(15)
    assert.is_nil(ok)
    assert.equal("ESRCH", err.name)
    for _, number in ipairs { 0, 65, -1 } do
      assert.has_error(function() child:kill(number) end)
    end
    child:close()
    expect_end(reader)
  end)

  it("ends what is closed, once", function()
    local child, reader = holder()
    child:close()
    expect_end(reader)
    child:close()
    assert.matches("closed", tostring(child))
  end)

  it("raises for what is closed", function()
    local child = assert(proc.spawn { argv = { "true" } })
    local pid = child.pid
    child:close()
    for _, method in ipairs { "wait", "fileno", "kill" } do
      local ok, err = pcall(child[method], child, 15)
      assert.is_false(ok)
      assert.matches("this child is closed", err, 1, true)
    end
    assert.equal(pid, child.pid)
    assert.is_nil(child.nothing)
    assert.has_error(function() child.wait(io.stdout) end)
  end)

  it("ends what is collected while it runs", function()
    local reader
    do
      local child
      child, reader = holder()
      assert.is_nil(child:wait())
    end
    collect()
    expect_end(reader)
  end)

  it("ends what goes out of scope", function()
    local reader
    do
      local child <close>, r = holder()
      reader = r
      assert.is_nil(child:wait())
    end
    expect_end(reader)
  end)
end)

describe("proc.spawn with contain #root", function()
  it("gives the program's own PID and status", function()
    -- The host's /proc is still mounted, and names the program as we do.
    local child <close>, reader = piped { argv = { "readlink", "/proc/self" }, contain = true }
    assert.equal(child.pid .. "\n", read_all(reader))
    proc.close(reader)
    assert.same({ status = 0 }, ended(child))
    local failed <close> = assert(proc.spawn { argv = { "sh", "-c", "exit 5" }, contain = true })
    assert.same({ status = 5 }, ended(failed))
    local killed <close> = assert(proc.spawn { argv = { "sh", "-c", "kill -ABRT $$" }, contain = true })
    assert.same({ signal = 6 }, ended(killed))
  end)

  it("gives what failed", function()
    local child, err = proc.spawn { argv = { "/nonexistent" }, contain = true }
    assert.is_nil(child)
    assert.equal("ENOENT", err.name)
    assert.equal("execute", err.op)
  end)

  it("ends what the program started, with it", function()
    local child, reader = holder { argv = { "sh", "-c", "setsid sleep 1000 & echo up; exec sleep 1000" }, contain = true }
    assert.is_true(child:kill(9))
    assert.same({ signal = 9 }, ended(child))
    expect_end(reader)
    child:close()
  end)

  it("ends what the program started, when it is closed or collected", function()
    for _, finish in ipairs { function(child) child:close() end, function() end } do
      local reader
      do
        local child
        child, reader = holder { argv = { "sh", "-c", "setsid sleep 1000 & echo up; exec sleep 1000" }, contain = true }
        finish(child)
      end
      collect()
      expect_end(reader)
    end
  end)

  it("mounts a /proc of its own where asked to", function()
    assert.equal("2\n", output { argv = { "readlink", "/proc/self" }, contain = true, proc_mount = true })
    local child, err = proc.spawn { argv = { "true" }, proc_mount = true }
    assert.is_nil(child)
    assert.equal("EINVAL", err.name)
  end)
end)

describe("proc.spawn with root #root", function()
  local root

  before_each(function() root = assert(uv.fs_mkdtemp "/tmp/fcvm-spec-root-XXXXXX") end)

  after_each(function()
    uv.fs_unlink(root .. "/busybox")
    assert(uv.fs_rmdir(root))
  end)

  it("closes the program into a directory, with what of ours is shown there", function()
    assert(uv.fs_close(uv.fs_open(root .. "/busybox", "w", 256)))
    local text = output { argv = { "/busybox", "ls", "/", ".." }, root = root, contain = true,
      binds = { [root .. "/busybox"] = "/bin/busybox" } }
    assert.equal("..:\nbusybox\n\n/:\nbusybox\n", text)
    -- Here it is the empty file that it was, and in nobody's way.
    assert.equal(0, uv.fs_stat(root .. "/busybox").size)
  end)

  it("says what could not be shown, and where it could not be closed into", function()
    local child, err = proc.spawn { argv = { "/busybox" }, root = root, binds = { [root .. "/busybox"] = "/bin/busybox" } }
    assert.is_nil(child)
    assert.same({ "show", "/bin/busybox", "ENOENT" }, { err.op, err.subject, err.name })
    child, err = proc.spawn { argv = { "/busybox" }, root = root .. "/none" }
    assert.is_nil(child)
    assert.same({ "close into", root .. "/none", "ENOENT" }, { err.op, err.subject, err.name })
    child, err = proc.spawn { argv = { "/busybox" }, root = root }
    assert.is_nil(child)
    assert.same({ "execute", "ENOENT" }, { err.op, err.name })
    assert.has_error(function() proc.spawn { argv = { "true" }, root = root, binds = { "x" } } end)
  end)
end)

describe("proc.identity", function()
  it("is ours where none is asked for", function()
    local mine = assert(proc.identity())
    assert.equal(uv.os_getpid(), mine.pid)
    assert.equal("integer", math.type(mine.start_time))
    assert.matches("^%x+%-%x+%-%x+%-%x+%-%x+$", mine.boot_id)
    assert.same(mine, proc.identity(mine.pid))
    assert.is_true(proc.alive(mine))
  end)

  it("is not that of another process with its number, or of another boot", function()
    local mine = proc.identity()
    for key, value in pairs { start_time = mine.start_time + 1, boot_id = "0" .. mine.boot_id:sub(2, -2) .. "x",
      pid = 1 } do
      local other = { pid = mine.pid, start_time = mine.start_time, boot_id = mine.boot_id, name = "web" }
      other[key] = value
      assert.is_false(proc.alive(other))
      local handle, err = proc.pidfd(other)
      assert.is_nil(handle)
      assert.equal("ESRCH", err.name)
    end
    mine.boot_id = ("x"):rep(1000)
    assert.is_false(proc.alive(mine))
  end)

  it("is none of a process that has ended", function()
    local child <close> = assert(proc.spawn { argv = { "sleep", "1000" } })
    local identity = assert(proc.identity(child.pid))
    local handle <close> = assert(proc.pidfd(identity))
    assert.is_true(proc.alive(identity))
    assert.is_true(handle:kill(9))
    await(handle:fileno(), "a process's end")
    assert.is_false(proc.alive(identity)) -- a zombie
    assert.same({ signal = 9 }, ended(child))
    assert.is_false(proc.alive(identity))
    local none, err = proc.identity(child.pid)
    assert.is_nil(none)
    assert.equal("ESRCH", err.name)
    none, err = handle:kill(9)
    assert.is_nil(none)
    assert.equal("ESRCH", err.name)
  end)

  it("raises where it is misused", function()
    for _, identity in ipairs { {}, { pid = 1 }, { pid = 0, start_time = 1, boot_id = "" }, { pid = 1, start_time = "1" },
      { pid = 1, start_time = 1.5, boot_id = "" }, { pid = 1, start_time = 1 } } do
      assert.has_error(function() proc.alive(identity) end)
      assert.has_error(function() proc.pidfd(identity) end)
    end
    assert.has_error(function() proc.identity(0) end)
    assert.has_error(function() proc.identity(-1) end)
    assert.has_error(function() proc.identity(1 << 40) end)
  end)

  it("has handles that close twice, raise then, and let the process live", function()
    local child <close> = assert(proc.spawn { argv = { "sleep", "1000" } })
    local handle = assert(proc.pidfd(proc.identity(child.pid)))
    handle:close()
    handle:close()
    assert.has_error(function() handle:fileno() end, "this process handle is closed")
    assert.has_error(function() handle:kill(9) end, "this process handle is closed")
    assert.matches("closed", tostring(handle))
    do
      local lost = proc.pidfd(proc.identity(child.pid))
      assert.matches("process handle", tostring(lost))
    end
    collect()
    assert.is_nil(child:wait())
  end)
end)

describe("proc.lock", function()
  local path
  before_each(function()
    path = os.tmpname()
    os.remove(path)
  end)
  after_each(function() os.remove(path) end)

  it("excludes, until it is closed", function()
    local lock = assert(proc.lock(path))
    local other, err = proc.lock(path)
    assert.is_nil(other)
    assert.equal("EAGAIN", err.name)
    assert.equal(path, err.subject)
    lock:close()
    lock:close()
    assert.matches("released", tostring(lock))
    local again <close> = assert(proc.lock(path))
    assert.equal("lock", tostring(again))
  end)

  it("is shared where asked to", function()
    local one <close> = assert(proc.lock(path, { shared = true, mode = 416 }))
    local two <close> = assert(proc.lock(path, { shared = true }))
    assert.is_true(one ~= two)
    assert.is_nil((proc.lock(path)))
    assert.equal(416, uv.fs_stat(path).mode & 511)
  end)

  it("ends when it is collected", function()
    do
      local lost = assert(proc.lock(path))
      assert.equal("lock", tostring(lost))
    end
    collect()
    local lock <close> = assert(proc.lock(path))
    assert.equal("lock", tostring(lock))
  end)

  it("is of the file that has the name now", function()
    local old <close> = assert(proc.lock(path))
    os.remove(path)
    local new <close> = assert(proc.lock(path))
    assert.is_true(old ~= new)
    assert.is_nil((proc.lock(path)))
  end)

  it("says what is wrong", function()
    local lock, err = proc.lock "/nonexistent/lock"
    assert.is_nil(lock)
    assert.equal("ENOENT", err.name)
    assert.has_error(function() proc.lock() end)
    assert.has_error(function() proc.lock(path, { share = true }) end)
    assert.has_error(function() proc.lock(path .. "\0x") end)
  end)
end)

describe("proc's descriptors", function()
  it("are pipes, read once", function()
    local reader, writer = proc.pipe()
    assert(uv.fs_write(writer, "hello"))
    assert.equal("he", proc.read_fd(reader, 2))
    assert.equal("llo", proc.read_fd(reader, 100))
    assert.is_true(proc.close(writer))
    assert.equal("", proc.read_fd(reader, 100))
    assert.is_true(proc.close(reader))
    local ok, err = proc.close(reader)
    assert.is_nil(ok)
    assert.equal("EBADF", err.name)
    ok, err = proc.read_fd(reader, 1)
    assert.is_nil(ok)
    assert.equal("EBADF", err.name)
    assert.has_error(function() proc.close(-1) end)
    assert.has_error(function() proc.read_fd(0, 0) end)
    assert.has_error(function() proc.read_fd(0, 1 << 40) end)
  end)

  it("are sealed files in memory", function()
    local fd = assert(proc.memfd("name", "a\0b"))
    assert.equal("a\0b", proc.read_fd(fd, 100))
    local ok, _, name = uv.fs_write(fd, "x", 0)
    assert.is_nil(ok)
    assert.equal("EPERM", name)
    proc.close(fd)
    local none, err = proc.memfd(("n"):rep(300), "")
    assert.is_nil(none)
    assert.equal("EINVAL", err.name)
  end)
end)

describe("proc", function()
  it("has random digits", function()
    assert.matches("^[0-9a-f]+$", proc.random_hex(6))
    assert.equal(512, #proc.random_hex(256))
    assert.are_not.equal(proc.random_hex(16), proc.random_hex(16))
    assert.has_error(function() proc.random_hex(0) end)
    assert.has_error(function() proc.random_hex(257) end)
  end)

  it("has the signals' names", function()
    assert.equal(15, proc.signal_names.TERM)
    assert.equal(15, proc.signal_names.SIGTERM)
    assert.equal(9, proc.signal_names.KILL)
  end)

  it("has a process end with its parent", function()
    assert.is_true(proc.parent_death(proc.signal_names.CONT))
    assert.is_true(proc.parent_death(0))
    local ok, err = proc.parent_death(1000)
    assert.is_nil(ok)
    assert.equal("EINVAL", err.name)
  end)
end)
