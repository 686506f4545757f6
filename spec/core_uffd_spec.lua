-- SPDX-License-Identifier: Apache-2.0
-- The bindings of the page server. What it does to VMs is tests/unit/test_uffd.c; here are handles, results and errors.
describe("fcvm.core.uffd", function()
  local uv = require "luv"
  local core = require "fcvm.core"
  local task = require "fcvm.task"
  local uffd = core.uffd
  local dir

  before_each(function() dir = assert(uv.fs_mkdtemp "/tmp/fcvm-spec-uffd-XXXXXX") end)

  after_each(function()
    local scan = uv.fs_scandir(dir)
    for name in function() return uv.fs_scandir_next(scan) end do uv.fs_unlink(dir .. "/" .. name) end
    assert(uv.fs_rmdir(dir))
  end)

  local function path(name) return dir .. "/" .. name end

  local PAGES = 64
  local function put_memory(name, seed)
    local pages = {}
    for i = 1, PAGES do pages[i] = i % 4 == 0 and ("\0"):rep(4096) or string.char((seed + i) % 255 + 1):rep(4096) end
    assert(core.disk.write(path(name), table.concat(pages)))
  end

  local function fails(name, value, err)
    assert.is_nil(value)
    assert.equal(name, err.name)
    assert.is_string(err.op)
    return err
  end

  -- Waits for a job; its result.
  local function finish(job, err)
    assert(job, tostring(err))
    local first, second
    task.main(function()
      task.readable(job:fileno(), 20, "a job")
      first, second = job:result()
    end)
    return first, second
  end

  -- A server over `memory`, with the caller's descriptors closed again.
  local function serve(options)
    local listener = assert(uffd.listen(path "socket"))
    local memory = assert(uv.fs_open(path(options.file or "memory"), "r", 0))
    options.file, options.listener, options.memory = nil, listener, memory
    local server, err = uffd.serve(options)
    core.proc.close(listener)
    uv.fs_close(memory)
    return server, err
  end

  it("tells what the host can do", function()
    local probe = uffd.probe()
    assert.is_boolean(probe.userfaultfd)
    assert.is_boolean(probe.io_uring)
    assert.is_boolean(probe.huge_pages)
    assert.equal(probe.userfaultfd, probe.userfaultfd_error == nil)
    assert.equal(probe.io_uring, probe.io_uring_error == nil)
    if probe.userfaultfd_error then assert.is_string(probe.userfaultfd_error.hint) end
  end)

  it("listens", function()
    local fd = assert(uffd.listen(path "socket", 432))
    assert.equal(432, uv.fs_stat(path "socket").mode & 511)
    fails("EADDRINUSE", uffd.listen(path "socket"))
    core.proc.close(fd)
    fails("ENAMETOOLONG", uffd.listen(path(("x"):rep(120))))
  end)

  it("finds zero pages", function()
    put_memory("memory", 1)
    local job <close> = assert(uffd.index(path "memory", path "map"))
    assert.matches("^fcvm.uffd.job: ", tostring(job))
    assert.same({ PAGES // 4, PAGES }, { finish(job) })
    assert.same({ PAGES // 4, PAGES }, { job:result() })
  end)

  it("says why a job failed", function()
    local job <close> = assert(uffd.index(path "none", path "map"))
    local err = fails("ENOENT", finish(job))
    assert.equal(path "none", err.subject)
    put_memory("memory", 1)
    local warm <close> = assert(uffd.warm(path "memory", path "memory"))
    fails("EBADMSG", finish(warm))
  end)

  it("serves, and tells of nobody while nobody is there", function()
    put_memory("memory", 1)
    finish(uffd.index(path "memory", path "map"))
    local server <close> = assert(serve { page_map = path "map", record = true, workers = 1 })
    assert.matches("^fcvm.uffd.server: ", tostring(server))
    assert.same({ faults = 0, replayed = 0, around = 0, zero = 0, bytes = 0, removed = 0, living = 0, refused = 0,
      recording = "none", clients = {} }, server:stats())
    assert.same({}, server:reap())
    fails("ENODATA", server:recording { out = path "set" })
    fails("ENOENT", server:replay(path "none"))
    fails("EBADMSG", server:replay(path "map"))
  end)

  it("tells of a peer that speaks no sense", function()
    put_memory("memory", 1)
    local server <close> = assert(serve { workers = 1 })
    local client
    task.main(function()
      local pipe = uv.new_pipe(false)
      task.await(function(resume) pipe:connect(path "socket", resume) end)
      pipe:write "GET / HTTP/1.0\r\n\r\n"
      repeat
        task.readable(server:fileno(), 20, "the page server")
        uffd.drain(server:fileno())
        client = server:stats().clients[1]
      until client and client.state == "failed"
      pipe:close()
    end)
    assert.equal(uv.os_getpid(), client.pid)
    assert.equal(uv.getuid(), client.uid)
    assert.equal("EPROTO", client.error.name)
    assert.matches("no JSON array", tostring(client.error))
    local reaped
    repeat reaped = server:reap()[1] until reaped
    assert.equal(client.id, reaped.id)
    assert.same({}, server:stats().clients)
  end)

  it("refuses files that are not the memory's", function()
    put_memory("memory", 1)
    put_memory("other", 2)
    finish(uffd.index(path "other", path "map"))
    fails("ESTALE", serve { page_map = path "map" })
    local err = fails("EBADMSG", serve { working_set = path "other" })
    assert.equal(path "other", err.subject)
    fails("ENOENT", serve { working_set = path "none" })
    assert(core.disk.write(path "odd", "x"))
    fails("EINVAL", serve { file = "odd" })
    fails("EINVAL", uffd.serve { listener = 0, memory = 0 })
  end)

  it("raises on misuse", function()
    put_memory("memory", 1)
    for _, call in ipairs {
      function() uffd.serve {} end,
      function() uffd.serve { listener = 3 } end,
      function() uffd.serve { listener = 3, memory = "x" } end,
      function() uffd.serve { listener = 3, memory = 3, aroundd = 2 } end,
      function() uffd.serve { listener = 3, memory = 3, ratio = 0.5 } end,
      function() uffd.serve { listener = 3, memory = 3, spin = -2 } end,
      function() uffd.serve { listener = 3, memory = 3, quiet = 0 / 0 } end,
      function() uffd.serve { listener = 3, memory = 3, page_map = "" } end,
      function() uffd.serve { listener = 3, memory = 3, page_map = "a\0b" } end,
      function() uffd.serve { listener = 3, memory = 3, workers = 0 } end,
      function() uffd.listen "" end,
      function() uffd.listen(path "socket", 512) end,
      function() uffd.index(path "memory") end,
      function() uffd.drain "x" end,
      function() uffd.drain(-1) end,
    } do
      assert.has_error(call)
    end
  end)

  it("may be closed twice, and raises once it is closed", function()
    put_memory("memory", 1)
    local server = assert(serve { workers = 2 })
    server:close()
    server:close()
    assert.equal("fcvm.uffd.server (closed)", tostring(server))
    for _, method in ipairs { "fileno", "stats", "reap", "recording", "replay" } do
      assert.has_error(function() server[method](server, {}) end, "this server is closed")
    end
    local job = assert(uffd.index(path "memory", path "map"))
    job:close()
    job:close()
    assert.equal("fcvm.uffd.job (closed)", tostring(job))
    assert.has_error(function() job:result() end, "this job is closed")
    assert.has_error(function() job:fileno() end, "this job is closed")
    assert.has_error(function() server.stats(job) end)
    assert.has_error(function() server.close(io.stdout) end)
  end)

  it("is collected while it works", function()
    put_memory("memory", 1)
    do
      assert(serve { workers = 2 })
      assert(uffd.index(path "memory", path "map"))
    end
    collectgarbage()
    collectgarbage()
    local scan = uv.fs_scandir(dir)
    for name in function() return uv.fs_scandir_next(scan) end do assert.is_nil(name:match "^%.fcvm") end
  end)
end)
