-- SPDX-License-Identifier: Apache-2.0
describe("preflight", function()
  local errors = require "fcvm.errors"
  local paths = require "fcvm.paths"
  local preflight = require "fcvm.preflight"
  local task = require "fcvm.task"
  local uv = require "luv"
  local workshop = require "fcvm.setup.workshop"

  local home, old_data

  local function write(path, data, mode)
    paths.ensure(path:match "^(.*)/")
    local file = assert(io.open(path, "wb"))
    file:write(data)
    file:close()
    if mode then uv.fs_chmod(path, mode) end
  end

  -- One check against a made-up host.
  local function one(name, options)
    options = options or {}
    options.only, options.root = name, options.root or home .. "/root"
    local list = preflight.run(options)
    assert.equal(1, #list, name)
    return list[1]
  end

  local function test(name, body) it(name, function() task.main(body) end) end

  before_each(function()
    home = uv.fs_mkdtemp "/tmp/fcvm-preflight-spec-XXXXXX"
    old_data = paths.data()
    paths.set_data(home .. "/data")
    paths.ensure(home .. "/root")
  end)

  after_each(function()
    paths.set_data(old_data)
    task.main(function() workshop.remove(home) end)
  end)

  test("says that a device is missing, and how to get it", function()
    local check = one "kvm.device"
    assert.is_false(check.ok)
    assert.equal(errors.status.kvm, check.status)
    assert.matches("modprobe kvm", check.fix)
    write(home .. "/root/dev/kvm", "")
    assert.is_true(one("kvm.device").ok)
  end)

  test("knows which kernels do", function()
    for release, ok in pairs { ["5.9.16"] = false, ["4.19.0-1"] = false, ["5.10.0"] = true, ["6.1.0-40-cloud"] = true,
      odd = false } do
      assert.equal(ok, one("kernel", { release = release }).ok, release)
    end
  end)

  test("wants of who is not root user namespaces, and pasta or slirp4netns", function()
    assert.is_true(one("rootless", { uid = 0 }).ok)
    local function as_user(status)
      local function namespace() return { status = status, stderr = "no room\n" } end
      return one("rootless", { uid = 1000, path = home, namespace = namespace })
    end
    write(home .. "/pasta", "")
    uv.fs_chmod(home .. "/pasta", 493)
    assert.same({ true, home .. "/pasta" }, { as_user(0).ok, as_user(0).found })
    assert.matches("no room", as_user(1).found)
    assert.matches("max_user_namespaces", as_user(1).fix)
    uv.fs_unlink(home .. "/pasta")
    write(home .. "/slirp4netns", "")
    uv.fs_chmod(home .. "/slirp4netns", 493)
    assert.equal(home .. "/slirp4netns", as_user(0).found)
  end)

  test("sees a firewall that drops what is forwarded", function()
    local function with(chains)
      local function given() return chains end
      return one("firewall", { uid = 0, chains = given })
    end
    local docker = [[{"nftables":[{"metainfo":{}},{"chain":{"family":"ip","table":"filter","name":"FORWARD","hook":"forward",]]
      .. [["type":"filter","prio":0,"policy":"%s"}},{"chain":{"family":"ip","table":"nat","name":"x"}}]}]]
    local check = with(docker:format "drop")
    assert.equal("warning", check.ok)
    assert.matches("ip filter FORWARD drops", check.found)
    assert.matches("nft insert rule ip filter FORWARD iifname 'fcv%*' accept", check.fix)
    assert.is_true(with(docker:format "accept").ok)
    assert.is_true(with("[]").ok)
    assert.is_true(with("{").ok)
    assert.is_true(one("firewall", { uid = 1000 }).ok)
  end)

  test("wants cgroup v2 with its controllers", function()
    assert.equal("warning", one("cgroups").ok)
    write(home .. "/root/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io pids\n")
    assert.matches("without memory", one("cgroups").found)
    write(home .. "/root/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n")
    assert.is_true(one("cgroups").ok)
  end)

  test("reads the switch of io_uring", function()
    assert.is_true(one("io_uring").ok)
    for value, ok in pairs { ["0"] = true, ["1"] = "warning", ["2"] = "warning" } do
      write(home .. "/root/proc/sys/kernel/io_uring_disabled", value .. "\n")
      assert.equal(ok, one("io_uring", { uid = 1000 }).ok, value)
    end
    write(home .. "/root/proc/sys/kernel/io_uring_disabled", "1\n")
    assert.is_true(one("io_uring", { uid = 0 }).ok)
  end)

  test("takes the device or the switch of userfaultfd", function()
    write(home .. "/root/proc/sys/vm/unprivileged_userfaultfd", "0\n")
    local check = one "userfaultfd"
    assert.is_false(check.ok)
    assert.equal("sysctl -w vm.unprivileged_userfaultfd=1", check.fix)
    write(home .. "/root/proc/sys/vm/unprivileged_userfaultfd", "1\n")
    assert.is_true(one("userfaultfd").ok)
    write(home .. "/root/proc/sys/vm/unprivileged_userfaultfd", "0\n")
    write(home .. "/root/dev/userfaultfd", "")
    assert.is_true(one("userfaultfd").ok)
  end)

  test("believes what it tried of userfaultfd and io_uring, not what a file says", function()
    write(home .. "/root/dev/userfaultfd", "")
    write(home .. "/root/proc/sys/kernel/io_uring_disabled", "0\n")
    local function probe()
      return { userfaultfd = false, io_uring = false, userfaultfd_error = { name = "EPERM", message = "", hint = "ask for it" },
        io_uring_error = { name = "ENOSYS", message = "no such call", hint = "another kernel" } }
    end
    local check = one("userfaultfd", { probe = probe })
    assert.is_false(check.ok)
    assert.matches("trying it: EPERM", check.found, 1, true)
    assert.equal("ask for it", check.fix)
    check = one("io_uring", { probe = probe, uid = 0 })
    assert.equal("warning", check.ok)
    assert.matches("trying it: no such call", check.found, 1, true)
    -- What the real probe says is what this process can do.
    local real = require("fcvm.core").uffd.probe()
    assert.equal(real.io_uring, one("io_uring", { uid = 0 }).ok == true)
    assert.equal(real.userfaultfd, one("userfaultfd").ok)
  end)

  test("finds tools and names their packages", function()
    local check = one("tools.skopeo", { path = home .. "/bin" })
    assert.is_false(check.ok)
    assert.equal("apt-get install -y skopeo", check.fix)
    write(home .. "/bin/skopeo", "", 493)
    assert.equal(home .. "/bin/skopeo", one("tools.skopeo", { path = home .. "/bin" }).found)
    assert.equal("warning", one("tools.curl", { path = home .. "/bin" }).ok)
  end)

  test("measures space where the data directory will be", function()
    local where
    local function statfs(gib)
      return function(path)
        where = path
        return { bavail = gib << 18, bsize = 4096 }
      end
    end
    assert.equal(errors.status.cannot_create, one("space", { statfs = statfs(2) }).status)
    assert.equal(home, where)
    assert.is_true(one("space", { statfs = statfs(5) }).ok)
    write(home .. "/data/rootfs/rootfs.ext4", "")
    assert.is_true(one("space", { statfs = statfs(2) }).ok)
  end)

  test("tries reflinks for real", function()
    local ok = one("reflinks").ok
    assert.is_true(ok == true or ok == "warning")
  end)

  test("says what setup has not made", function()
    for _, part in ipairs { "firecracker", "kernel", "rootfs" } do
      local check = one("setup." .. part)
      assert.is_false(check.ok)
      assert.equal("fcvm setup " .. part, check.fix)
      assert.equal(errors.status.missing_part, check.status)
    end
    write(home .. "/data/bin/firecracker", "another", 493)
    assert.equal(errors.status.config, one("setup.firecracker").status)
  end)

  describe("of a booting guest", function()
    local function host(script)
      write(home .. "/root/dev/kvm", "")
      write(home .. "/data/kernels/vmlinux", "")
      write(home .. "/data/bin/firecracker", "#!/bin/sh\n" .. script, 493)
    end

    test("is not tried without Firecracker and a kernel, which is no success", function()
      write(home .. "/root/dev/kvm", "")
      local check = one "kvm.boot"
      assert.is_false(check.ok)
      assert.equal(errors.status.missing_part, check.status)
    end)

    test("believes in the guest's own line, and ends Firecracker", function()
      host 'echo "2026-01-01T00:00:00.000 [a:main] Running Firecracker"\necho fc-agent: ready\nexec sleep 100'
      local check = one "kvm.boot"
      assert.is_true(check.ok, check.found)
      -- That no child is left is what every test is looked at for.
    end)

    test("does not take a device that is there for a guest that boots", function()
      host 'echo "2026-01-01T00:00:00.000 [a:main] Successfully started microvm"\nsleep 100'
      local check = one("kvm.boot", { boot_seconds = 0.3 })
      assert.is_false(check.ok)
      assert.equal(errors.status.kvm, check.status)
      assert.equal("no guest came up within 0.3 s", check.found)
    end)

    test("passes on why Firecracker ended", function()
      host 'echo "2026-01-01T00:00:00.000 [a:main] Error creating KVM object: No such device"\nexit 1'
      local check = one "kvm.boot"
      assert.is_false(check.ok)
      assert.matches("ended with status 1; last seen: .*No such device", check.found)
    end)

    it("tells the kernel's lines from those of a first process", function()
      for line, up in pairs {
        ["[    0.100000] Linux version 6.1"] = false,
        ["2026-01-01T00:00:00.000 [a:main] Running Firecracker v1.12.1"] = false,
        ["[    1.0] Kernel panic - not syncing: Attempted to kill init!"] = true,
        ["[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)"] = true,
        ["[    0.1] Kernel panic - not syncing: Out of memory"] = false,
        ["[    1.0] Run /init as init process"] = true,
        ["fc-agent: no root disk"] = true, ["  "] = false,
      } do assert.equal(up, preflight.reached_init(line), line) end
    end)
  end)

  test("takes checks by the beginning of their names, and refuses unknown ones", function()
    local list = preflight.run { only = "kvm", root = home .. "/root" }
    assert.same({ "kvm.device", "kvm.boot" }, { list[1].name, list[2].name })
    local ok, err = pcall(preflight.run, { only = "reflonks" })
    assert.is_false(ok)
    assert.matches("did you mean 'reflinks'", tostring(err), 1, true)
  end)

  describe("#kvm", function()
    test("boots a real guest on this host, with what setup made", function()
      paths.set_data(old_data)
      for _, check in ipairs(preflight.run { only = "kvm", boot_seconds = 60 }) do
        assert.is_true(check.ok, ("%s: %s"):format(check.name, check.found))
      end
    end)
  end)

  it("ends with the status of what is hardest to mend", function()
    local status = errors.status
    assert.equal(0, preflight.exit_status { { ok = true }, { ok = "warning", status = status.kvm } })
    assert.equal(status.kvm, preflight.exit_status { { ok = false, status = status.missing_part },
      { ok = false, status = status.kvm } })
    assert.equal(status.missing_part, preflight.exit_status { { ok = false, status = status.missing_part } })
  end)

  it("reads as a table, in which what mends a failure stands below it", function()
    local text = preflight.render { { name = "a", ok = true, found = "fine" },
      { name = "longer", ok = false, found = "bad\27", needed = "good", fix = "do it" } }
    assert.equal("ok       a       fine\nFAILED   longer  bad\\x1b\n                 needed: good; mend: do it\n", text)
  end)
end)
