-- SPDX-License-Identifier: Apache-2.0
-- The whole chain as a plain user, on real Firecracker: run, publish, snapshot, serve, clone, kill, and nothing is left.
describe("rootless #kvm", function()
  local cli = require "spec.support.cli"
  local json = require "fcvm.json"
  local paths = require "fcvm.paths"
  local plain = require "spec.support.plain_user"
  local process = require "fcvm.process"
  local resources = require "fcvm.resources"
  local task = require "fcvm.task"
  local uv = require "luv"

  local home, image
  local devices = { "/dev/kvm", "/dev/net/tun", "/dev/userfaultfd" }
  local modes = {}

  local function test(name, body) it(name, function() task.main(body) end) end

  -- A user who has what `fcvm setup` makes, a way to it, and the devices that a host's rules would give.
  lazy_setup(function()
    task.main(function()
      home = paths.data() .. "/rootless-spec"
      paths.ensure(home .. "/data", 493)
      for _, dir in ipairs { paths.data(), home } do
        modes[dir] = uv.fs_stat(dir).mode & 511
        uv.fs_chmod(dir, 493)
      end
      for _, device in ipairs(devices) do
        modes[device] = uv.fs_stat(device).mode & 511
        uv.fs_chmod(device, 438)
      end
      for _, part in ipairs { "bin", "kernels", "rootfs" } do
        process.run { "cp", "-a", "--reflink=auto", paths.data() .. "/" .. part, home .. "/data/" }
      end
      process.run { "cp", "-a", cli.images .. "/web", home .. "/" }
      paths.ensure(home .. "/run")
      process.run { "chown", "-R", ("%d:%d"):format(plain.uid, plain.uid), home }
      image = "oci:" .. home .. "/web"
    end)
  end)

  lazy_teardown(function()
    task.main(function()
      process.run { "pkill", "-9", "-u", tostring(plain.uid), check = false, contain = false }
      resources.remove_tree(home)
      for path, mode in pairs(modes) do
        if uv.fs_stat(path) then uv.fs_chmod(path, mode) end
      end
    end)
  end)

  local function run(status, ...)
    local words = plain.words(home, { cli.binary, ... })
    words.check, words.contain, words.timeout = false, false, 240
    local result = process.run(words)
    assert.equal(status, result.status, result.stderr)
    return result.stdout, result.stderr
  end

  local function record(name) return json.decode(run(0, "inspect", name)) end

  local function page(port, host)
    return process.run({ "curl", "-sS", "-m", "20", ("http://%s:%d/"):format(host or "127.0.0.1", port), check = false }).stdout
  end

  local function until_healthy(name)
    cli.eventually(name .. " to be healthy", function() return record(name).health == "healthy" end, 120)
    return record(name)
  end

  -- What of the user's still runs or lies about.
  local function left()
    local list = {}
    for _, dir in ipairs { home .. "/data/state", home .. "/data/vm-disks", home .. "/data/serves", home .. "/run/fcvm/netns" } do
      local scan = uv.fs_scandir(dir)
      for entry in function() return scan and uv.fs_scandir_next(scan) end do
        if entry ~= ".lock" and entry ~= "lock" then list[#list + 1] = dir .. "/" .. entry end
      end
    end
    local running = process.run({ "pgrep", "-a", "-u", tostring(plain.uid), check = false }).stdout
    if running ~= "" then list[#list + 1] = running end
    return list
  end

  test("a VM runs, is reached by its port alone, is snapshotted, served and cloned, and leaves nothing", function()
    run(0, "run", "--name", "one", "-p", "127.0.0.1:0:80", "--mem", "256M", "--cpu", "1", "-d", "--health-check",
      "http://localhost:80/", image)
    local one = until_healthy "one"
    assert.equal("pasta", one.network_mode)
    assert.matches("hello from a container", page(one.ports[1].host_port))
    assert.equal("", page(one.ports[1].host_port, "127.0.0.2"))
    -- Out into the world; not to this host's own loopback.
    local reach = "use IO::Socket; $s = IO::Socket::INET->new(PeerAddr => $ARGV[0], PeerPort => $ARGV[1], Timeout => 5); "
      .. "print $s ? 'reached' : 'not reached'"
    local own = process.run({ "hostname", "-I" }).stdout:match "%S+"
    local listener = uv.new_tcp()
    listener:bind("0.0.0.0", 0)
    listener:listen(9, function()
      local peer = uv.new_tcp()
      listener:accept(peer)
      peer:close()
    end)
    local port = tostring(listener:getsockname().port)
    assert.equal("reached", (run(0, "exec", "--guest", "one", "perl", "-e", reach, own, port)))
    assert.equal("not reached", (run(0, "exec", "--guest", "one", "perl", "-e", reach, "10.231.0.1", port)))
    listener:close()
    -- Firecracker is closed in, and has no capability.
    local firecracker = require("fcvm.stats").firecracker_of(one.pid)
    assert.matches("CapEff:%s*0+\n", io.open("/proc/" .. firecracker .. "/status"):read "a")
    assert.is_nil(uv.fs_stat("/proc/" .. firecracker .. "/root/etc"))

    run(0, "snapshot", "create", "one", "--tag", "warm")
    local clones = {}
    for _, memory in ipairs { "uffd", "file" } do
      run(0, "snapshot", "run", "warm", "--memory", memory, "--name", memory, "-p", "127.0.0.1:0:80", "-d",
        "--egress", memory == "file" and "deny" or "allow")
      clones[memory] = until_healthy(memory)
      assert.equal(memory, clones[memory].memory)
      assert.matches("hello from a container", page(clones[memory].ports[1].host_port))
      assert.equal(memory .. "\n", (run(0, "exec", memory, "hostname")))
    end
    assert.is_true(clones.uffd.machine_id ~= clones.file.machine_id)
    -- One of them may not begin any connection: its rules are in the user's own namespace.
    assert.equal("not reached", (run(0, "exec", "--guest", "file", "perl", "-e", reach, own, "9")))
    local denied = record("file").egress
    assert.same({ "deny", own, 9 }, { denied.policy, denied.destinations[1].address, denied.destinations[1].port })
    assert.is_nil(record("uffd").egress)

    -- Killed: Firecracker and pasta go with the supervisor, and the next command removes the rest.
    uv.kill(one.pid, 9)
    cli.eventually("Firecracker to end", function() return not uv.fs_stat("/proc/" .. firecracker) end, 10)
    run(0, "sweep")
    assert.is_nil(uv.fs_stat(home .. "/data/vm-disks/" .. one.vm_id))
    for _, name in ipairs { "uffd", "file" } do run(0, "stop", name) end
    run(0, "snapshot", "rm", "warm")
    cli.eventually("all to be gone", function() return #left() == 0 end, 20)
  end)

  test("slirp4netns does where it is asked for, and a port in use is refused with who has it", function()
    run(0, "run", "--name", "slirp", "--network-mode", "slirp4netns", "-p", "127.0.0.1:0:80", "--mem", "256M", "--cpu", "1", "-d",
      "--health-check", "http://localhost:80/", image)
    local slirp = until_healthy "slirp"
    assert.equal("slirp4netns", slirp.network_mode)
    local port = slirp.ports[1].host_port
    assert.matches("hello from a container", page(port))
    local _, why = run(75, "run", "-p", ("127.0.0.1:%d:80"):format(port), image)
    assert.matches("in use by the VM slirp", why)
    _, why = run(64, "run", "--network-mode", "bridged", image)
    assert.matches("take root", why)
    _, why = run(77, "run", "-p", "80:80", image)
    assert.matches("ip_unprivileged_port_start", why)
    -- The way out is a part of the VM: its end is the VM's.
    process.run { "pkill", "-9", "-f", "^slirp4netns .*" .. home, contain = false }
    cli.eventually("the VM to end with its network", function() return #left() == 0 end, 30)
  end)
end)
