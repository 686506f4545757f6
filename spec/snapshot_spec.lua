-- SPDX-License-Identifier: Apache-2.0
-- Snapshots as files, and what may be asked of a clone: all that needs no guest. Real ones are in spec/clone_spec.lua.
describe("snapshots", function()
  local core = require "fcvm.core"
  local errors = require "fcvm.errors"
  local json = require "fcvm.json"
  local paths = require "fcvm.paths"
  local process = require "fcvm.process"
  local snapshot = require "fcvm.snapshot"
  local state = require "fcvm.state"
  local task = require "fcvm.task"
  local uv = require "luv"

  local before, directory
  before_each(function()
    before = paths.data()
    directory = uv.fs_mkdtemp "/tmp/fcvm-snapshot.XXXXXX"
    paths.set_data(directory)
  end)
  after_each(function()
    task.main(function() process.run { "rm", "-rf", directory } end)
    paths.set_data(before)
  end)

  local function test(name, body) it(name, function() task.main(body) end) end

  local function put(path, text)
    local file = assert(io.open(path, "w"))
    file:write(text)
    file:close()
  end

  local function read(path)
    local file <close> = assert(io.open(path))
    return file:read "a"
  end

  local function raised(name, fn, ...)
    local ok, err = pcall(fn, ...)
    assert.is_false(ok)
    assert.equal(name, err.name, tostring(err))
    return err
  end

  -- Writes the parts of a snapshot into `into`; returns its snapshot.json as a table. `word` tells it from others.
  local function fill(into, tag, word)
    local files = {}
    for i, name in ipairs(snapshot.parts) do
      put(into .. "/" .. name, (word or "word"):rep(100 * i))
      files[name] = snapshot.mark_of(uv.fs_stat(into .. "/" .. name))
    end
    return { version = snapshot.version, tag = tag, image = "web", firecracker = "1.12.1", created_at = 1700000000,
      memory_mib = 256, cpus = 1, files = files, plan = { version = 1 }, host = snapshot.host() }
  end

  -- A snapshot under its tag. `change(meta, directory)` may spoil it.
  local function make(tag, change)
    local into = paths.ensure(snapshot.directory(tag))
    local meta = fill(into, tag)
    if change then change(meta, into) end
    if not meta.none then put(into .. "/snapshot.json", meta.text or json.encode(meta, true)) end
    return into, meta
  end

  local function serve(tag)
    return state.claim_server { process_type = "serve", snapshot = tag, memory = "auto", clones = 0 }
  end

  test("are read as they were written", function()
    local into, meta = make "warm"
    local found = assert(snapshot.read(into, "warm"))
    assert.same(meta, found)
    assert.same(meta, assert(snapshot.read(into))) -- no tag: any
    snapshot.check_parts(into, found)
    local object = snapshot.find "warm"
    assert.equal(256, object.memory_mib)
    assert.equal("snapshot warm (web)", tostring(object))
  end)

  test("that cannot be read say what is wrong", function()
    local function problem(words, change)
      local found, err = snapshot.read(make("bad", change), "bad")
      assert.is_nil(found)
      assert.equal("EPROTO", err.name)
      assert.equal(65, errors.exit_status(err))
      assert.matches(words, tostring(err), 1, true)
      assert.equal("EPROTO", raised("EPROTO", snapshot.find, "bad").name)
    end
    problem("fcvm snapshot rm bad", function(meta) meta.text = "{" end)
    problem("it holds no object", function(meta) meta.text = "7" end)
    problem("nested too deeply", function(meta) meta.text = ("["):rep(1000) end)
    problem("its version is 2, not 1", function(meta) meta.version = 2 end)
    problem("its version is nil", function(meta) meta.version = nil end)
    problem("it is of the tag 'other'", function(meta) meta.tag = "other" end)
    for key, kind in pairs { tag = "string", image = "string", firecracker = "string", created_at = "integer",
      memory_mib = "integer", cpus = "integer", files = "table", plan = "table", host = "table" } do
      problem(("its %s is no %s"):format(key, kind), function(meta) meta[key] = true end)
      problem(("its %s is no %s"):format(key, kind), function(meta) meta[key] = nil end)
    end
    problem("its cpus is no integer", function(meta) meta.cpus = 1.5 end)

    local found, err = snapshot.read(make("big", function(meta) meta.text = (" "):rep(2 << 20) end), "big")
    assert.is_nil(found)
    assert.equal("EFBIG", err.name)
    found, err = snapshot.read(snapshot.directory "none", "none")
    assert.is_nil(found)
    assert.equal("ENOENT", err.name)
  end)

  test("know their parts by size and time", function()
    local function refused(words, change)
      local into, meta = make("bad", change)
      local err = raised("EPROTO", snapshot.check_parts, into, meta)
      assert.equal(65, errors.exit_status(err))
      assert.matches(words, tostring(err), 1, true)
      process.run { "rm", "-rf", into }
    end
    refused("vmstate.bin: it is missing", function(_, into) os.remove(into .. "/vmstate.bin") end)
    refused("memory.bin: it has 10 bytes and not 400", function(_, into) put(into .. "/memory.bin", ("x"):rep(10)) end)
    refused("disk.ext4: it is not the file", function(_, into) uv.fs_utime(into .. "/disk.ext4", 1, 1) end)
    refused("image.squashfs: snapshot.json does not know it", function(meta) meta.files["image.squashfs"] = nil end)
    refused("memory.bin: snapshot.json does not know it", function(meta) meta.files["memory.bin"] = "much" end)
    refused("memory.bin: it is no file", function(_, into)
      os.remove(into .. "/memory.bin")
      uv.fs_mkdir(into .. "/memory.bin", 448)
    end)
    -- Nor a link, wherever it leads.
    refused("memory.bin: it is no file", function(_, into)
      uv.fs_rename(into .. "/memory.bin", directory .. "/elsewhere")
      uv.fs_symlink(directory .. "/elsewhere", into .. "/memory.bin")
    end)
  end)

  test("may be copied, as long as times are kept", function()
    local into, meta = make "warm"
    process.run { "cp", "-a", into, directory .. "/copy" }
    snapshot.check_parts(directory .. "/copy", meta)
    process.run { "cp", "-r", into, directory .. "/other" }
    raised("EPROTO", snapshot.check_parts, directory .. "/other", meta)
  end)

  test("are listed by tag, and those that cannot be read apart", function()
    assert.same({}, (snapshot.list()))
    make "b"
    make "a"
    make("bad", function(meta) meta.text = "?" end)
    make("none", function(meta) meta.none = true end)
    paths.ensure(paths.snapshots() .. "/.new-vm-000000000001")
    local list, broken = snapshot.list()
    assert.equal(2, #list)
    assert.equal("a", list[1].tag)
    assert.equal("b", list[2].tag)
    table.sort(broken, function(x, y) return x.tag < y.tag end)
    assert.equal(2, #broken)
    assert.same({ "bad", "EPROTO" }, { broken[1].tag, broken[1].error.name })
    assert.same({ "none", "ENOENT" }, { broken[2].tag, broken[2].error.name })
  end)

  test("that are not there are named by the nearest", function()
    make "warm"
    local err = raised("ENOENT", snapshot.find, "wram")
    assert.equal(66, errors.exit_status(err))
    assert.matches("did you mean 'warm'?", tostring(err), 1, true)
    assert.matches("fcvm snapshot ls", tostring(raised("ENOENT", snapshot.find, "something else")), 1, true)
    -- What is no tag leads nowhere.
    put(paths.ensure(directory .. "/outside") .. "/snapshot.json", read(snapshot.directory "warm" .. "/snapshot.json"))
    for _, tag in ipairs { "../outside", "..", ".", "", "a/b", ".new-vm-000000000001" } do
      raised("ENOENT", snapshot.find, tag)
      raised("ENOENT", snapshot.remove, tag)
    end
    assert.is_truthy(uv.fs_stat(directory .. "/outside/snapshot.json"))
  end)

  test("tell what is known of them", function()
    local into = make "warm"
    local first = serve "warm"
    serve "another"
    local all = snapshot.find("warm"):inspect()
    assert.equal("web", all.image)
    assert.equal(into, all.directory)
    assert.same({ first.pid }, all.servers)
    assert.is_false(all.recorded)
    local size = 0
    for _, name in ipairs { "memory.bin", "vmstate.bin", "disk.ext4" } do
      size = size + uv.fs_stat(into .. "/" .. name).blocks * 512
    end
    assert.equal(size, all.size)
    put(into .. "/working-set.bin", ("x"):rep(100000))
    all = snapshot.find("warm"):inspect()
    assert.is_true(all.recorded)
    assert.equal(size + uv.fs_stat(into .. "/working-set.bin").blocks * 512, all.size)
  end)

  test("are not removed while a server lives, and are after it", function()
    local into = make "warm"
    local record = serve "warm"
    local err = raised("EBUSY", snapshot.remove, "warm")
    assert.equal(75, errors.exit_status(err))
    assert.matches(("process %d"):format(record.pid), tostring(err), 1, true)
    raised("EBUSY", function() snapshot.find("warm"):remove() end)
    assert.is_truthy(uv.fs_stat(into .. "/memory.bin"))
    -- One that is dead uses nothing.
    record.start_time = record.start_time + 1
    state.write(record)
    snapshot.remove "warm"
    assert.is_nil(uv.fs_stat(into))
    raised("ENOENT", snapshot.remove, "warm")
    local left = uv.fs_scandir(paths.snapshots())
    assert.is_nil(left and uv.fs_scandir_next(left))
  end)

  test("are removed when they are damaged, too", function()
    make("bad", function(meta) meta.text = "?" end)
    make("none", function(meta) meta.none = true end)
    snapshot.remove "bad"
    snapshot.remove "none"
    assert.same({}, (snapshot.list()))
  end)

  test("replace the one of their tag as a whole, and what holds the old one keeps it", function()
    local old = make "warm"
    local words = read(old .. "/memory.bin")
    assert(uv.fs_link(old .. "/memory.bin", directory .. "/held"))
    local id = "vm-000000000001"
    local into = snapshot.begin(id)
    local meta = fill(into, "warm", "later")
    put(into .. "/snapshot.json", json.encode(meta))
    snapshot.publish(into, "warm")
    local found = snapshot.find "warm"
    snapshot.check_parts(found.directory, found.meta)
    assert.equal(("later"):rep(100), read(found.directory .. "/memory.bin"))
    assert.equal(words, read(directory .. "/held"))
    -- The old one has the other name, and goes with the VM.
    assert.equal(words, read(into .. "/memory.bin"))
    snapshot.abandon(id)
    assert.is_nil(uv.fs_stat(into))
    assert.equal(words, read(directory .. "/held"))
    assert.equal(1, #snapshot.list())
  end)

  test("have no tag before they are whole", function()
    local id = "vm-000000000001"
    local into = snapshot.begin(id)
    fill(into, "warm")
    raised("ENOENT", snapshot.find, "warm")
    assert.same({}, (snapshot.list()))
    os.remove(into .. "/disk.ext4")
    assert.is_false((pcall(snapshot.publish, into, "warm")))
    raised("ENOENT", snapshot.find, "warm")
    -- Begun anew, nothing of it is left.
    assert.equal(into, snapshot.begin(id))
    assert.is_nil(uv.fs_stat(into .. "/memory.bin"))
    assert.equal(448, uv.fs_stat(into).mode & 511)
    snapshot.abandon(id)
    snapshot.abandon(id)
    assert.is_nil(uv.fs_stat(into))
  end)

  test("that a killed remove left are swept, and nothing else", function()
    make "warm"
    assert(uv.fs_rename(snapshot.directory "warm", paths.snapshots() .. "/.gone-0123456789ab"))
    make "gone-0123456789ab"
    paths.ensure(directory .. "/target")
    put(directory .. "/target/file", "kept")
    uv.fs_symlink(directory .. "/target", paths.snapshots() .. "/.gone-0123456789ab/link")
    snapshot.sweep()
    assert.is_nil(uv.fs_stat(paths.snapshots() .. "/.gone-0123456789ab"))
    assert.equal("kept", read(directory .. "/target/file"))
    assert.equal(1, #snapshot.list())
  end)

  test("know their zero pages", function()
    local into = make "warm"
    put(into .. "/memory.bin", ("\0"):rep(8192) .. ("\0"):rep(4095) .. "x" .. ("\0"):rep(4096))
    assert.equal(3, snapshot.index(into))
    assert.is_truthy(uv.fs_stat(into .. "/page-map.bin"))
    put(into .. "/memory.bin", ("\0"):rep(5000))
    assert.is_false((pcall(snapshot.index, into)))
  end)

  test("are served by one record each, under the lock", function()
    make "warm"
    local inside
    local record = state.claim_server({ process_type = "serve", snapshot = "warm" }, function(r)
      inside = r.serve_id
      local _, err = core.proc.lock(paths.state() .. "/.lock")
      assert.equal("EAGAIN", err.name)
    end)
    assert.equal(record.serve_id, inside)
    -- What cannot be prepared leaves no record.
    local ok, err = pcall(state.claim_server, { process_type = "serve", snapshot = "warm" }, function() error("no", 0) end)
    assert.is_false(ok)
    assert.equal("no", err)
    assert.equal(1, #state.servers "warm")
    assert.same({}, state.servers "cold")
    assert.same({}, state.vms())
  end)
end)

describe("a clone's plan", function()
  local restore = require "fcvm.restore"

  local function refused(words, options)
    local ok, err = pcall(restore.plan, options)
    assert.is_false(ok)
    assert.equal("EINVAL", err.name)
    assert.matches(words, tostring(err), 1, true)
  end

  it("is what was asked for, and no function of ours", function()
    assert.same({}, restore.plan {})
    assert.same({ name = "c1", env = { SHARD = 1 }, labels = { a = "b" }, health = "http://localhost:80/", detach = true },
      restore.plan { name = "c1", env = { SHARD = 1 }, labels = { a = "b" }, health = "http://localhost:80/", detach = true,
        output = "inherit", on_output = print })
    -- False is not nil: no check instead of the snapshot's own.
    assert.is_false(restore.plan({ health = false }).health)
  end)

  it("has files as a list of paths, with a mode", function()
    local files = restore.plan({ files = { ["/etc/a"] = "text", ["/bin/b"] = { data = "x", mode = 493 }, ["/n"] = 7 } }).files
    table.sort(files, function(a, b) return a.path < b.path end)
    assert.same({ { path = "/bin/b", data = "x", mode = 493 }, { path = "/etc/a", data = "text", mode = 420 },
      { path = "/n", data = "7", mode = 420 } }, files)
  end)

  it("is refused where it makes no sense", function()
    refused("did you mean 'name'?", { naem = "x" })
    refused("option 'env' must be table", { env = "A=1" })
    refused("absolute path", { files = { ["etc/a"] = "x" } })
    refused("absolute path", { files = { "x" } })
    refused("http://", { health = "localhost" })
    refused("its options are one table", { health = true })
    refused("port or path", { health = { port = 70000 } })
  end)
end)
