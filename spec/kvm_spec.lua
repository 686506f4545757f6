-- SPDX-License-Identifier: Apache-2.0
-- The main job on real Firecracker. Run where KVM is, by tests/on-kvm.
describe("#kvm", function()
  local cli = require "spec.support.cli"
  local fcvm = require "fcvm"
  local json = require "fcvm.json"
  local paths = require "fcvm.paths"
  local task = require "fcvm.task"
  local uv = require "luv"

  local web, tools = "oci:" .. cli.images .. "/web", "oci:" .. cli.images .. "/tools"

  local function test(name, body) it(name, function() task.main(body) end) end

  local function records()
    local living = fcvm.state.scan()
    return living
  end

  -- What a VM owns and what must be gone with it, by its id.
  local function left_of(id)
    local left = {}
    for _, path in ipairs { paths.state() .. "/" .. id .. ".json", paths.disks() .. "/" .. id,
      paths.run() .. "/netns/" .. id, "/sys/fs/cgroup/fcvm/" .. id } do
      if uv.fs_lstat(path) then left[#left + 1] = path end
    end
    return left
  end

  local function links()
    local list = {}
    local scan = uv.fs_scandir "/sys/class/net"
    while scan do
      local name = uv.fs_scandir_next(scan)
      if not name then break end
      if name:match "^fcv%d" then list[#list + 1] = name end
    end
    return list
  end

  after_each(function()
    task.main(function()
      assert.same({}, records())
      assert.same({}, links())
    end)
  end)

  test("a web container is healthy, answers, is listed, runs commands, stops, and leaves nothing", function()
    local run = cli.start { "podman", "run", "--name", "web", "--cpu", "1", "--mem", "512M",
      "--health-check", "http://localhost:80/", web }
    cli.eventually("web to be healthy", function()
      assert(run.child:wait() == nil, run.stderr)
      local record = records()[1]
      return record and record.health == "healthy"
    end, 200)
    local record = records()[1]
    assert.equal("running", record.status)

    local reply = fcvm.vm("web"):request { port = 80 }
    assert.equal(200, reply.status)
    assert.matches("hello from a container", reply.body)

    local rows = json.decode(cli.run { "ls", "--json" }.stdout).rows
    assert.equal(1, #rows)
    assert.equal("web", rows[1].name)
    assert.equal(record.pid, rows[1].pid)
    assert.matches("web", cli.run({ "ls", "--pid", record.pid }).stdout)
    assert.not_matches("web", cli.run({ "ls", "--pid", "1" }).stdout)

    local seen = json.decode(cli.run { "inspect", "web" }.stdout)
    assert.equal(record.vm_id, seen.vm_id)
    assert.is_true(seen.stats.memory.pss > 1 << 20)

    local exec = cli.run { "exec", "web", "/bin/sh", "-c", "echo out; echo err >&2; exit 7" }
    assert.same({ 7, "out\n", "err\n" }, { exec.status, exec.stdout, exec.stderr })
    local data = ("0123456789abcdef"):rep(65536)
    local cat = cli.run { "exec", "-i", "web", "/bin/cat", stdin = data }
    assert.equal(0, cat.status)
    assert.equal(data, cat.stdout)
    assert.equal(127, cli.run({ "exec", "web", "/no/such" }).status)

    local taken = cli.run { "run", "--name", "web", web }
    assert.equal(75, taken.status)
    assert.matches("name VM web", taken.stderr, 1, true)

    assert.equal(0, cli.run({ "stop", "web" }).status)
    run:wait()
    assert.same({}, left_of(record.vm_id))
  end)

  test("a container's output and status pass through untouched", function()
    local run = cli.run { "run", "--mem", "256M", "--cpu", "1", tools, "/bin/sh", "-c",
      "printf 'a\\0b\\n'; echo oops >&2; exit 42" }
    assert.equal(42, run.status)
    assert.equal("a\0b\n", run.stdout)
    assert.matches("oops\n", run.stderr, 1, true)
  end)

  test("a command that is not there is 127", function()
    local run = cli.run { "run", "--mem", "256M", "--cpu", "1", tools, "/no/such" }
    assert.equal(127, run.status)
    assert.matches("/no/such", run.stderr, 1, true)
  end)

  test("SIGTERM stops the container, and its status is the container's", function()
    local run = cli.start { "run", "--name", "sleeper", "--mem", "256M", "--cpu", "1", "--env", "SHARD=3", tools, "/bin/sh", "-c",
      "trap 'echo bye $SHARD; exit 5' TERM; echo ready; while :; do sleep 1; done" }
    cli.eventually("the container to be ready", function()
      assert(run.child:wait() == nil, run.stderr)
      return run.stdout:find "ready"
    end, 200)
    run:kill(15)
    assert.same({ status = 5 }, run:wait())
    cli.eventually("its last word", function() return run.stdout:find "bye 3" end, 5)
  end)

  test("a killed fcvm takes its Firecracker along, and the next command sweeps", function()
    local run = cli.start { "run", "--name", "victim", "--mem", "256M", "--cpu", "1", tools, "/bin/sleep", "1000" }
    cli.eventually("victim to run", function()
      assert(run.child:wait() == nil, run.stderr)
      local record = records()[1]
      return record and record.status == "running"
    end, 200)
    local record = records()[1]
    local firecracker = require("fcvm.stats").firecracker_of(record.pid)
    assert.is_truthy(firecracker)
    uv.kill(record.pid, 9)
    run:wait()
    cli.eventually("Firecracker to end", function() return not uv.fs_stat("/proc/" .. firecracker) end, 10)
    assert.equal(0, cli.run({ "sweep" }).status)
    assert.same({}, left_of(record.vm_id))
  end)

  test("a killed Firecracker is reported, and nothing is left", function()
    local run = cli.start { "run", "--name", "victim", "--mem", "256M", "--cpu", "1", tools, "/bin/sleep", "1000" }
    cli.eventually("victim to run", function()
      assert(run.child:wait() == nil, run.stderr)
      local record = records()[1]
      return record and record.status == "running"
    end, 200)
    local record = records()[1]
    uv.kill(require("fcvm.stats").firecracker_of(record.pid), 9)
    assert.same({ status = 79 }, run:wait())
    assert.matches("was ended by signal 9", run.stderr)
    assert.same({}, left_of(record.vm_id))
  end)

  test("a guest that panics is reported as such", function()
    local run = cli.start { "run", "--name", "panic", "--mem", "256M", "--cpu", "1", tools, "/bin/sleep", "1000" }
    cli.eventually("it to run", function()
      assert(run.child:wait() == nil, run.stderr)
      local record = records()[1]
      return record and record.status == "running"
    end, 200)
    pcall(function()
      fcvm.vm("panic"):exec { "/bin/sh", "-c", "echo c > /proc/sysrq-trigger", vm = true, timeout = 20 }
    end)
    assert.same({ status = 79 }, run:wait())
    assert.matches("panic", run.stderr)
  end)

  test("the sanity recipe passes", function()
    local run = cli.run { "test", "sanity", "--image", web }
    assert.equal(0, run.status, run.stderr)
    assert.matches("nothing is left", run.stderr)
  end)
end)
