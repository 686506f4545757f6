-- SPDX-License-Identifier: Apache-2.0
-- Snapshots, servers and clones on real Firecracker. Run where KVM is, by tests/on-kvm.
describe("#kvm snapshot", function()
  local cli = require "spec.support.cli"
  local fcvm = require "fcvm"
  local json = require "fcvm.json"
  local paths = require "fcvm.paths"
  local stats = require "fcvm.stats"
  local task = require "fcvm.task"
  local uv = require "luv"
  local vms = require "spec.support.vms"

  local tools = "oci:" .. cli.images .. "/tools"
  -- A web server, a server that echoes, and a line of output every tenth of a second.
  local PROGRAM = "/bin/httpd -h / ; echo page > /index.html; (while :; do nc -l -p 7 -e /bin/cat; done &) ;"
    .. " i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done"

  local function test(name, body) it(name, function() task.main(body) end) end

  after_each(function() task.main(vms.assert_nothing_left) end)

  local function run_base(name)
    return fcvm.run { image = tools, name = name, mem = "256M", cpu = 1, cmd = { "/bin/sh", "-c", PROGRAM },
      health = { port = 80, path = "/index.html" } }:wait("healthy", { timeout = 200 })
  end

  -- The snapshot that most tests clone; made by the first that needs it.
  local function warm()
    if not pcall(fcvm.snapshot, "warm") then
      local base = run_base "base"
      base:snapshot { tag = "warm" }
      base:stop()
    end
    return fcvm.snapshot "warm"
  end

  teardown(function()
    task.main(function()
      for _, snapshot in ipairs((fcvm.snapshots())) do snapshot:remove() end
    end)
  end)

  local function sh(vm, script)
    local result = vm:exec { "/bin/sh", "-c", script, timeout = 60 }
    assert.equal(0, result.status, result.stderr)
    return (result.stdout:gsub("\n$", ""))
  end

  local function page(vm) return vm:request({ path = "/index.html", timeout = 30 }).body end

  -- A connection to the VM's echo server: a function that sends a word and waits until it comes back.
  local function echo(vm)
    local tcp, got, wake = uv.new_tcp(), "", nil
    fcvm.defer(function() tcp:close() end)
    local failure = task.await(function(resume) tcp:connect(vm.address, 7, resume) end)
    assert.is_nil(failure)
    tcp:read_start(function(_, chunk)
      got = got .. (chunk or "END")
      if wake then wake() end
    end)
    return function(word)
      tcp:write(word)
      task.timeout(30, word .. " to come back", function()
        while not got:find(word, 1, true) do task.await(function(resume) wake = resume end) end
      end)
      assert.not_matches("END", got)
    end
  end

  test("is made of a VM that goes on serving, connections and output and all", function()
    local base = run_base "base"
    local say = echo(base)
    say "before"
    local slow = fcvm.spawn(base.exec, base, { "/bin/sh", "-c", "echo a; sleep 6; echo b", timeout = 120 })
    -- Two of one tag at once: one is made, the other refused.
    local both = fcvm.parallel(2, function() return base:snapshot { tag = "warm" } end, { on_error = "collect" })
    local made, refused = both[1].ok and both[1].value or both[2].value, both[1].ok and both[2].error or both[1].error
    assert.equal("warm", made.tag)
    assert.equal("EBUSY", refused.name)
    assert.is_true(made.paused > 0)
    say "after"
    assert.equal("page\n", page(base))
    assert.equal("a\nb\n", slow:join().stdout)
    -- A tag is made again: another snapshot.
    local created = fcvm.snapshot("warm").files["memory.bin"].mtime_ns
    local create = cli.run { "snapshot", "create", "--pid", tostring(base.pid), "--tag", "warm", "--label", "kind=test" }
    assert.equal(0, create.status, create.stderr)
    say "after the second"
    local seen = json.decode(cli.run({ "snapshot", "inspect", "warm" }).stdout)
    assert.not_equal(created, seen.files["memory.bin"].mtime_ns)
    assert.same({ kind = "test" }, seen.labels)
    assert.equal("1.12.1", seen.firecracker)
    assert.is_true(seen.size >= 256 << 20)
    assert.matches("warm", cli.run({ "snapshot", "ls" }).stdout)
    -- Nothing that the container wrote was lost or came twice.
    local count = 0
    for number in base:logs():gmatch "line (%d+)\n" do
      count = count + 1
      assert.equal(count, math.tointeger(tonumber(number)))
    end
    assert.is_true(count > 10)
    assert.equal("running", base:state().status)
    base:stop()
    assert.equal(66, cli.run({ "snapshot", "inspect", "wram" }).status)
  end)

  test("is served to clones that share nothing of their identity", function()
    warm()
    local serve = cli.start { "snapshot", "serve", "warm", "--memory", "uffd" }
    cli.eventually("the server's PID", function()
      assert(serve.child:wait() == nil, serve.stderr)
      return serve.stdout:find "Socket: "
    end, 30)
    local pid = math.tointeger(tonumber(serve.stdout:match "Serve PID: (%d+)"))
    local server = fcvm.server(pid)
    local clones = fcvm.parallel(2, function(i)
      return server:clone { name = "c" .. i, env = { SHARD = i }, files = { ["/etc/shard"] = "shard " .. i .. "\n" } }
        :wait("healthy", { timeout = 120 })
    end)
    local seen = {}
    for i, clone in ipairs(clones) do
      local words = {}
      for _, script in ipairs { "head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n'", "cat /etc/machine-id",
        "cat /run/fcvm/generation", "hostname" } do
        words[#words + 1] = sh(clone, script)
        assert.is_nil(seen[words[#words]], script .. " says the same in both")
        seen[words[#words]] = true
      end
      assert.equal(64, #words[1])
      assert.equal("c" .. i, words[4])
      assert.equal(clone:state().machine_id, words[2])
      assert.equal(clone:state().generation, words[3])
      assert.is_true(math.abs(clone:state().clock_offset) < 0.05)
      assert.equal("page\n", page(clone))
      assert.equal(("%d shard %d"):format(i, i), sh(clone, "echo $SHARD $(cat /etc/shard)"))
      assert.equal("clone", clone.kind)
      assert.equal(pid, clone.serve_pid)
      -- What the base wrote is not the clone's.
      assert.not_matches("line 1\n", (clone:logs()))
    end
    assert.not_equal(clones[1].address, clones[2].address)

    -- The counters, and who holds what.
    local list = json.decode(cli.run({ "snapshot", "ls", "--json" }).stdout)
    assert.equal(1, #list.servers)
    assert.same({ pid, "warm", 2, "healthy" },
      { list.servers[1].pid, list.servers[1].snapshot, list.servers[1].clones, list.servers[1].health })
    assert.equal(2, #list.servers[1].stats.clients)
    assert.is_true(list.servers[1].stats.faults > 0)
    for _, client in ipairs(list.servers[1].stats.clients) do assert.is_true(client.bytes > 1 << 20) end
    local rm = cli.run { "snapshot", "rm", "warm" }
    assert.equal(75, rm.status)
    assert.matches(tostring(pid), rm.stderr, 1, true)

    -- The next clone has the recorded working set before it runs.
    cli.eventually("a working set", function() return uv.fs_stat(fcvm.snapshot("warm").directory .. "/working-set.bin") end, 30)
    local third = server:clone { name = "c3" }:wait("healthy", { timeout = 120 })
    assert.equal("page\n", page(third))
    local firecracker = stats.firecracker_of(third.pid)
    cli.eventually("its replay", function()
      for _, client in ipairs(server:stats().clients) do
        if client.pid == firecracker then return client.replayed > 500 and client.state == "serving" end
      end
    end, 30)

    serve:kill(15)
    assert.same({ status = 0 }, serve:wait())
    for _, clone in ipairs { clones[1], clones[2], third } do
      assert.same({}, vms.left_of(clone.id))
    end
  end)

  test("takes its clones along when its server is killed, and they say so", function()
    local server = warm():serve { memory = "uffd" }
    local run = cli.start { "snapshot", "run", "--pid", tostring(server.pid), "--name", "orphan" }
    cli.eventually("the clone to be healthy", function()
      assert(run.child:wait() == nil, run.stderr)
      local ok, vm = pcall(fcvm.vm, "orphan")
      return ok and vm.health == "healthy"
    end, 120)
    local firecracker = stats.firecracker_of(fcvm.vm("orphan").pid)
    local killed = fcvm.now()
    uv.kill(server.pid, 9)
    cli.eventually("Firecracker to end", function() return not uv.fs_stat("/proc/" .. firecracker) end, 10)
    assert.is_true(fcvm.now() - killed < 2, "it took " .. fcvm.now() - killed)
    assert.same({ status = 79 }, run:wait())
    assert.matches("its server, process %d+, has ended", run.stderr)
    assert.equal(0, cli.run({ "sweep" }).status)
  end)

  test("loses a clone that is killed while it is restored, and nothing else", function()
    local server = warm():serve { memory = "uffd" }
    for _, stage in ipairs { "network", "spawn", "load" } do
      local run = cli.start { "snapshot", "run", "--pid", tostring(server.pid), "--name", "victim" }
      local record
      cli.eventually("the clone to reach " .. stage, function()
        assert(run.child:wait() == nil, run.stderr)
        record = select(2, pcall(fcvm.state.find, "victim"))
        -- A record is written with its claim; later stages are seen by what they make.
        return record.vm_id and (stage == "network" or stats.firecracker_of(record.pid)
          and (stage == "spawn" or #server:stats().clients > 0))
      end, 60)
      uv.kill(record.pid, 9)
      run:wait()
      assert.equal(0, cli.run({ "sweep" }).status)
      assert.same({}, vms.left_of(record.vm_id))
    end
    local clone = server:clone { name = "victim" }:wait("healthy", { timeout = 120 })
    assert.equal("page\n", page(clone))
    assert.equal(1, server:state().clones)
    clone:stop()
    cli.eventually("the server to hear of it", function() return server:state().clones == 0 end, 10)
    server:stop()
  end)

  test("is cloned without a word of servers, and its server ends with the clone", function()
    warm()
    local run = cli.start { "clone", "--snapshot", "warm", "--name", "alone" }
    cli.eventually("the clone to be healthy", function()
      assert(run.child:wait() == nil, run.stderr)
      local ok, vm = pcall(fcvm.vm, "alone")
      return ok and vm.health == "healthy"
    end, 120)
    assert.equal("page\n", page(fcvm.vm "alone"))
    assert.equal(1, #fcvm.servers "warm")
    run:kill(15)
    run:wait()
    cli.eventually("the server to end", function() return #fcvm.servers "warm" == 0 end, 20)
  end)

  test("gives memory by the page cache where it is local and its working set is known", function()
    local snapshot = warm()
    os.remove(snapshot.directory .. "/working-set.bin")
    local server = snapshot:serve()
    local first = server:clone { name = "first" }:wait("healthy", { timeout = 120 })
    assert.equal("uffd", first:state().memory)
    cli.eventually("a working set", function() return uv.fs_stat(snapshot.directory .. "/working-set.bin") end, 30)
    local second = server:clone { name = "second" }:wait("healthy", { timeout = 120 })
    assert.equal("file", second:state().memory)
    assert.equal("page\n", page(second))
    assert.equal("page\n", page(first))
    server:stop()
  end)

  test("has its clones' supervisors forked, and started anew where nobody forks them", function()
    local server = warm():serve { memory = "file" }
    local function parent_of(pid)
      return fcvm.core.disk.read(("/proc/%d/stat"):format(pid), 4096):match "%) %S (%d+)"
    end
    local forker
    cli.eventually("a fork server", function()
      local children = fcvm.core.disk.read(("/proc/%d/task/%d/children"):format(server.pid, server.pid), 4096)
      for pid in (children or ""):gmatch "%d+" do
        local line = fcvm.core.disk.read("/proc/" .. pid .. "/cmdline", 4096)
        if line and line:find("fork-server", 1, true) then forker = pid end
      end
      return forker and uv.fs_stat(paths.serves() .. "/" .. server.serve_id .. "/fork.sock")
    end, 20)
    local heard = ""
    local first = server:clone { name = "first", env = { WHO = "first" }, publish = "127.0.0.1:0:80",
      on_output = function(_, data) heard = heard .. data end }
    first:wait("healthy", { timeout = 120 })
    local published = "http://127.0.0.1:" .. first.ports[1].host_port .. "/index.html"
    assert.equal("page\n", fcvm.process.run({ "curl", "-sS", "--max-time", "20", published }).stdout)
    assert.equal(forker, parent_of(first.pid))
    assert.equal("first", sh(first, "echo $WHO"))
    cli.eventually("its output", function() return heard:find "line %d+\n" end, 30)
    uv.kill(first.pid, 9)
    local ended, why = pcall(first.wait, first, "exited", { timeout = 10 })
    assert.is_false(ended)
    assert.matches("ended without a word", tostring(why))
    assert.equal(0, cli.run({ "sweep" }).status)

    uv.kill(math.tointeger(tonumber(forker)), 9)
    local second = server:clone { name = "second" }:wait("healthy", { timeout = 120 })
    assert.equal(("%d"):format(uv.os_getpid()), parent_of(second.pid))
    assert.equal("page\n", page(second))
    server:stop()
    cli.eventually("the second to end", function() return not pcall(fcvm.state.find, "second") end, 10)
  end)

  test("can be made of a clone, and cloned again", function()
    local server = warm():serve { memory = "file" }
    local clone = server:clone { name = "clone" }:wait("healthy", { timeout = 120 })
    sh(clone, "echo deeper > /index.html")
    local second = clone:snapshot { tag = "second" }
    assert.equal("warm", second.parent)
    local below = second:serve({ memory = "uffd" }):clone({ name = "below" }):wait("healthy", { timeout = 120 })
    assert.equal("deeper\n", page(below))
    assert.equal("deeper\n", page(clone))
    assert.equal("below", sh(below, "hostname"))
    assert.not_equal(clone:state().machine_id, sh(below, "cat /etc/machine-id"))
  end)

  test("is whole or not there, whatever is killed while it is made", function()
    local base = run_base "base"
    local old = fcvm.snapshot(base:snapshot({ tag = "killed" }).tag).files["memory.bin"].mtime_ns
    local function writing()
      return uv.fs_stat(require("fcvm.paths").vm_root(base.id) .. "/snapshot/memory.bin") ~= nil
    end
    local function still_old() assert.equal(old, fcvm.snapshot("killed").files["memory.bin"].mtime_ns) end

    -- Whoever asks for it: the VM goes on.
    local create = cli.start { "snapshot", "create", "base", "--tag", "killed" }
    cli.eventually("memory to be written", writing, 60)
    create:kill(9)
    create:wait()
    cli.eventually("the VM to go on", function() return base:state().snapshotting == false end, 60)
    assert.equal("page\n", page(base))
    assert.equal("base", sh(base, "hostname"))
    still_old()
    assert.is_nil(uv.fs_stat(paths.snapshots() .. "/.new-" .. base.id))

    -- Firecracker, in the middle of it.
    local asking = fcvm.spawn(pcall, base.snapshot, base, { tag = "killed" })
    cli.eventually("memory to be written", writing, 60)
    uv.kill(stats.firecracker_of(base.pid), 9)
    local ok, err = asking:join()
    assert.is_false(ok)
    assert.is_truthy(tostring(err):find "snapshot")
    ok = pcall(base.wait, base, "exited", { timeout = 60 })
    assert.is_false(ok)
    assert.same({}, vms.left_of(base.id))
    still_old()

    -- The supervisor: the next command removes what it left.
    base = run_base "base"
    create = cli.start { "snapshot", "create", "base", "--tag", "killed" }
    cli.eventually("memory to be written", writing, 60)
    uv.kill(base.pid, 9)
    create:wait()
    assert.matches("ended before it answered", create.stderr, 1, true)
    assert.equal(0, cli.run({ "sweep" }).status)
    assert.same({}, vms.left_of(base.id))
    still_old()
    fcvm.snapshot("killed"):remove()
  end)

  describe("bad input:", function()
    -- A copy of the snapshot under another tag, with `change(directory, meta)` done to it.
    local function damaged(change)
      local directory = warm().directory:gsub("warm$", "bad")
      fcvm.process.run { "rm", "-rf", directory }
      fcvm.process.run { "cp", "-a", "--reflink=auto", warm().directory, directory }
      fcvm.defer(function() fcvm.process.run { "rm", "-rf", directory } end)
      local meta = json.decode(assert(io.open(directory .. "/snapshot.json")):read "a")
      meta.tag = "bad"
      change(directory, meta)
      local file = assert(io.open(directory .. "/snapshot.json", "w"))
      file:write(type(meta.text) == "string" and meta.text or json.encode(meta))
      file:close()
    end

    local function serve_refused(status, words, change)
      damaged(change)
      local run = cli.run { "snapshot", "serve", "bad" }
      assert.equal(status, run.status, run.stderr)
      assert.matches(words, run.stderr, 1, true)
      assert.not_matches("stack traceback", run.stderr)
    end

    local function clone_refused(status, words, change, memory)
      damaged(change)
      local run = cli.run { "snapshot", "run", "bad", "--memory", memory or "file", "--name", "bad" }
      assert.equal(status, run.status, run.stderr)
      assert.matches(words, run.stderr, 1, true)
      assert.not_matches("stack traceback", run.stderr)
      cli.eventually("its server to end", function() return #fcvm.servers "bad" == 0 end, 30)
    end

    test("parts that are missing, cut short, changed or another's", function()
      serve_refused(65, "memory.bin: it has 4096 bytes", function(d)
        fcvm.process.run { "truncate", "-s", "4096", d .. "/memory.bin" }
      end)
      serve_refused(65, "vmstate.bin: it is missing", function(d) os.remove(d .. "/vmstate.bin") end)
      serve_refused(65, "disk.ext4: it is not the file", function(d) fcvm.process.run { "touch", d .. "/disk.ext4" } end)
      serve_refused(65, "nested too deeply", function(_, meta) meta.text = ("["):rep(1000) end)
      serve_refused(65, "its cpus is no integer", function(_, meta) meta.cpus = "many" end)
    end)

    test("another Firecracker, another processor", function()
      serve_refused(78, "--any-cpu", function(_, meta) meta.host.cpu = "Another CPU" end)
      clone_refused(78, "Firecracker 9.9.9 made it", function(_, meta) meta.firecracker = "9.9.9" end)
    end)

    test("a state that Firecracker does not take", function()
      clone_refused(65, "load", function(d, meta)
        local path = d .. "/vmstate.bin"
        uv.fs_chmod(path, 420)
        local file = assert(io.open(path, "r+"))
        file:seek("set", 4000)
        file:write(("x"):rep(512))
        file:close()
        meta.files["vmstate.bin"].mtime_ns = uv.fs_stat(path).mtime.sec * 1000000000 + uv.fs_stat(path).mtime.nsec
      end)
    end)

    test("a working set or page map of other memory is refused or passed over, never used", function()
      damaged(function(d)
        local file = assert(io.open(d .. "/working-set.bin", "w"))
        file:write(("garbage "):rep(1000))
        file:close()
      end)
      local run = cli.run { "snapshot", "serve", "bad", "--memory", "uffd" }
      assert.equal(65, run.status, run.stderr)
      assert.matches("working", run.stderr)
    end)

    local function free()
      local stat = uv.fs_statfs(paths.data())
      return stat.bavail * stat.bsize
    end

    -- Leaves about so many bytes free until the current scope ends.
    local function fill(left)
      -- More than once: what btrfs says is free changes as it gives space to data and to its own records.
      for i = 1, 20 do
        if free() < left + (100 << 20) then break end
        local filler = ("%s/filler-%d-%d"):format(paths.data(), left, i)
        fcvm.defer(function() os.remove(filler) end)
        fcvm.process.run { "fallocate", "-l", tostring(math.max(free() - left, 64 << 20)), filler, check = false }
        fcvm.core.disk.sync(paths.data())
      end
      assert.is_true(free() < left + (100 << 20))
    end

    test("no space for a snapshot", function()
      local base = run_base "base"
      fill(200 << 20)
      local create = cli.run { "snapshot", "create", "base", "--tag", "big" }
      assert.equal(73, create.status, create.stderr)
      assert.matches("MiB", create.stderr)
      assert.equal("page\n", page(base))
      base:stop()
    end)

    test("space that ends while a snapshot is written", function()
      local base = run_base "base"
      fill(420 << 20)
      assert.is_true(free() > 340 << 20)
      local create = cli.start { "snapshot", "create", "base", "--tag", "big" }
      local memory = require("fcvm.paths").vm_root(base.vm_id) .. "/snapshot/memory.bin"
      cli.eventually("Firecracker to write", function() return uv.fs_stat(memory) end, 30)
      local filler = paths.data() .. "/filler"
      fcvm.defer(function() os.remove(filler) end)
      for size = 320, 16, -16 do
        fcvm.process.run { "fallocate", "-o", tostring((320 - size) << 20), "-l", tostring(size << 20), filler, check = false }
      end
      assert.equal(73, create:wait().status, create.stderr)
      assert.matches("space", create.stderr)
      assert.is_false((pcall(fcvm.snapshot, "big")))
      assert.is_nil(uv.fs_stat(memory))
      assert.equal("page\n", page(base))
      os.remove(filler)
      base:stop()
    end)

    test("what does not exist, and what is no tag", function()
      local function refused(status, options)
        local run = cli.run(options)
        assert.equal(status, run.status, run.stderr)
        assert.not_matches("stack traceback", run.stderr)
      end
      refused(66, { "snapshot", "create", "nobody" })
      refused(66, { "snapshot", "serve", "none" })
      refused(66, { "snapshot", "run", "--pid", "1", "--name", "x" })
      refused(66, { "snapshot", "rm", "none" })
      refused(66, { "snapshot", "rm", "../state" })
      refused(64, { "snapshot", "run", "--name", "x" })
      refused(64, { "snapshot", "frobnicate" })
    end)
  end)

  test("becomes a fleet by a recipe", function()
    local run = cli.run { "recipe", "run", "clone-fleet.lua", "--image", "oci:" .. cli.images .. "/web", "--count", "3", "--json",
      timeout = 600 }
    assert.equal(0, run.status, run.stderr)
    local rows = json.decode(run.stdout).rows
    assert.equal(3, #rows)
    for _, row in ipairs(rows) do
      assert.equal(200, row.status)
      assert.is_true(row.restore > 0 and row.healthy >= row.restore)
    end
  end)
end)
