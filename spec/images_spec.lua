-- SPDX-License-Identifier: Apache-2.0
-- Images for real: skopeo, umoci, mksquashfs, docker-registry and a registry that misbehaves. Needs root (owners, mounts).
local uv = require "luv"
local core = require "fcvm.core"
local errors = require "fcvm.errors"
local image = require "fcvm.image"
local json = require "fcvm.json"
local layout = require "spec.support.layout"
local paths = require "fcvm.paths"
local process = require "fcvm.process"
local registry = require "spec.support.registry"
local task = require "fcvm.task"

-- A log that keeps its lines.
local function recorder()
  local self = { lines = {} }
  for _, level in ipairs { "info", "warn", "error", "debug" } do
    self[level] = function(_, format, ...) self.lines[#self.lines + 1] = format:format(...) end
  end
  return self
end

local function names(dir)
  local list, scan = {}, uv.fs_scandir(dir)
  while scan do
    local name = uv.fs_scandir_next(scan)
    if not name then break end
    list[#list + 1] = name
  end
  table.sort(list)
  return list
end

-- About `n` bytes that no compressor makes shorter than half.
local function noise(n)
  local parts = {}
  for i = 1, n // 512 + 1 do parts[i] = core.proc.random_hex(256) end
  return table.concat(parts)
end

describe("#images", function()
  local before_data, data

  before_each(function()
    before_data = paths.data()
    data = layout.directory()
    paths.set_data(data)
  end)

  after_each(function()
    task.main(function() layout.remove(data) end)
    paths.set_data(before_data)
  end)

  -- Runs a test in a task; the directories that it makes go with it.
  local function case(fn)
    return function()
      task.main(function()
        local function keep(dir)
          task.defer(function() layout.remove(dir) end)
          return dir
        end
        fn(keep)
      end)
    end
  end

  local function open(reference, more)
    local options = { reference = reference, arch = "amd64", log = recorder() }
    for key, value in pairs(more or {}) do options[key] = value end
    return image.open(options)
  end

  -- That opening fails with this exit status and a message that has `pattern` in it, and leaves nothing behind.
  local function fails(status, pattern, reference, more)
    local ok, err = pcall(open, reference, more)
    assert.is_false(ok)
    assert.equal("fcvm.error", getmetatable(err) and getmetatable(err).__name, tostring(err))
    assert.equal(status, errors.exit_status(err), tostring(err))
    assert.matches(pattern, tostring(err))
    assert.is_truthy(err.op and err.message, tostring(err))
    for _, name in ipairs(names(paths.images())) do assert.is_nil(name:match "^%.", "left behind: " .. name) end
    return err
  end

  -- The file `path` of the image in a store.
  local function content(store, path)
    local listed = process.run({ "unsquashfs", "-l", "-d", "", store }).stdout
    local prefix = listed:match "(/overlay/%x+/diff)\n"
    return process.run({ "unsquashfs", "-cat", store, prefix:sub(2) .. "/" .. path, check = false }).stdout, listed
  end

  describe("OCI layouts", function()
    it("are stored once and then known in an instant", case(function(keep)
      local dir, entry = layout.make { config = { Cmd = { "/bin/true" }, Env = { "A=B" }, User = "1:2", WorkingDir = "/tmp",
        StopSignal = "SIGINT", ExposedPorts = { ["80/tcp"] = json.object() } } }
      keep(dir)
      local log = recorder()
      local first = open("oci:" .. dir, { log = log })
      assert.is_false(first.cached)
      assert.equal(entry.digest, first.digest)
      assert.same({ Cmd = { "/bin/true" }, Env = { "A=B" }, User = "1:2", WorkingDir = "/tmp", StopSignal = "SIGINT",
        ExposedPorts = { "80/tcp" } }, json.decode(json.encode(first.config), "config"))
      assert.equal(uv.fs_stat(first.store).size, first.size)
      assert.equal(4 * 73, uv.fs_stat(first.store).mode & 511)
      assert.equal(1, #log.lines)
      assert.matches("^stored in %d", log.lines[1])
      assert.equal("hello\n", (content(first.store, "etc/motd")))
      log = recorder()
      for _, reference in ipairs { "oci:" .. dir .. ":latest", dir, dir .. "/" } do
        local second = open(reference, { log = log })
        assert.is_true(second.cached)
        assert.equal(first.store, second.store)
        assert.equal(first.reference, second.reference)
        assert.is_true(second.seconds < 0.05)
      end
      assert.same({}, log.lines)
      assert.same({ first.digest:sub(8) }, names(paths.images()))
    end))

    it("make equal stores of equal images", case(function(keep)
      local dir = keep(layout.make())
      local first = core.disk.read(open(dir).store, 1 << 24)
      layout.remove(paths.images())
      assert.is_true(first == core.disk.read(open(dir).store, 1 << 24))
    end))

    it("have their layers laid over each other, whiteouts applied", case(function(keep)
      local dir = keep(layout.make { layers = { { ["a/one"] = "1", ["a/two"] = "2", ["b/three"] = "3" },
        { ["a/.wh.one"] = "", ["b/.wh..wh..opq"] = "", ["b/four"] = "4", ["a/two"] = "22" } } })
      local store = open(dir).store
      local two, listed = content(store, "a/two")
      assert.equal("22", two)
      assert.matches("/diff/b/four\n", listed)
      assert.is_nil(listed:match "/diff/a/one\n")
      assert.is_nil(listed:match "/diff/b/three\n")
      assert.is_nil(listed:match "%.wh%.")
    end))

    it("may have layers that are not compressed, or by zstd", case(function(keep)
      for _, compression in ipairs { "none", "zstd" } do
        local dir = keep(layout.make { compression = compression, layers = { { ["etc/how"] = compression } } })
        assert.equal(compression, (content(open(dir).store, "etc/how")))
      end
    end))

    it("of several architectures give the one that is asked for", case(function(keep)
      local dir = keep(layout.directory())
      local arm = layout.image(dir, { arch = "arm64", platform = true })
      local amd = layout.image(dir, { arch = "amd64", platform = true })
      local inner = layout.blob(dir, json.encode { schemaVersion = 2, mediaType = "application/vnd.oci.image.index.v1+json",
        manifests = { arm, amd } }, "application/vnd.oci.image.index.v1+json")
      layout.index(dir, { { inner, tag = "both" } })
      assert.equal(amd.digest, open("oci:" .. dir .. ":both").digest)
      assert.equal(arm.digest, open(dir, { arch = "arm64" }).digest)
      fails(65, "it is for arm64, amd64, not for riscv64", dir, { arch = "riscv64" })
    end))

    it("with several images need a tag", case(function(keep)
      local dir = keep(layout.directory())
      local one, two = layout.image(dir, {}), layout.image(dir, { layers = { { two = "2" } } })
      layout.index(dir, { { one, tag = "one" }, { two, tag = "two" } })
      assert.equal(two.digest, open("oci:" .. dir .. ":two").digest)
      fails(66, "it has: one, two", dir)
      fails(66, "it has no image 'three'", "oci:" .. dir .. ":three")
    end))

    it("of another architecture are refused by name", case(function(keep)
      local dir = keep(layout.make { arch = "arm64" })
      fails(65, "it is for arm64, not for amd64", dir)
      fails(65, "it is for windows/amd64, not for amd64", keep(layout.make { os = "windows" }))
    end))

    it("that are corrupt say what is wrong", case(function(keep)
      local function broken(change, options)
        local dir, entry = layout.make(options or { layers = { { file = noise(5000) } } })
        change(keep(dir), entry)
        return dir
      end
      local function at(dir, entry) return ("%s/blobs/sha256/%s"):format(dir, entry.digest:sub(8)) end
      fails(65, "its layer 1 has the digest sha256:%x+, not sha256:%x+", broken(function(dir)
        local path = layout.largest(dir)
        local text = core.disk.read(path, 1 << 20)
        layout.write(path, text:sub(1, 2000) .. "XX" .. text:sub(2003))
      end))
      fails(65, "its layer 1 %(sha256:%x+%) has 99 bytes, not %d+", broken(function(dir)
        local path = layout.largest(dir)
        layout.write(path, core.disk.read(path, 1 << 20):sub(1, 99))
      end))
      fails(65, "its layer 1 %(sha256:%x+%) is missing", broken(function(dir) uv.fs_unlink(layout.largest(dir)) end))
      fails(65, "its manifest has the digest", broken(function(dir, entry) layout.write(at(dir, entry), "{}") end))
      fails(65, "its manifest is missing", broken(function(dir, entry) uv.fs_unlink(at(dir, entry)) end))
      fails(65, "its index.json cannot be read", broken(function(dir) layout.write(dir .. "/index.json", "{") end))
      fails(65, "larger than 4 MiB", broken(function(dir) layout.write(dir .. "/index.json", (" "):rep((4 << 20) + 1)) end))
      fails(65, "no OCI layout", broken(function(dir) uv.fs_unlink(dir .. "/index.json") end))
      fails(65, "no valid digest", broken(function(dir)
        layout.write(dir .. "/index.json",
          '{"schemaVersion":2,"manifests":[{"digest":"sha256:../../../../etc/passwd","size":1}]}')
      end))
      fails(65, "it is no container image", broken(function() end, { edit = function(manifest)
        manifest.layers[1].mediaType = "application/vnd.cncf.helm.chart"
      end }))
      fails(65, "its layer 1 has no valid digest", broken(function() end, { edit = function(manifest)
        manifest.layers[1].digest = "sha256:" .. ("/"):rep(64)
      end }))
      -- The digests are right and what is in the layer is no tar.
      fails(65, "cannot be unpacked", broken(function() end, { compression = "none", edit = function(manifest)
        local blob = manifest.config
        manifest.layers[1].digest, manifest.layers[1].size = blob.digest, blob.size
      end }))
    end))

    it("are stored again where the store was damaged", case(function(keep)
      local dir = keep(layout.make())
      local first = open(dir)
      uv.fs_chmod(first.store, 420)
      layout.write(first.store, "short")
      local second = open(dir)
      assert.is_false(second.cached)
      assert.equal("hello\n", (content(second.store, "etc/motd")))
      layout.write(first.store:match "^(.*)/" .. "/image.json", "nonsense")
      assert.is_false(open(dir).cached)
    end))

    it("are stored once by two runs at the same time", case(function(keep)
      local dir = keep(layout.make())
      local logs = { recorder(), recorder() }
      local both = task.parallel(2, function(i) return open(dir, { log = logs[i] }) end)
      assert.equal(1, (both[1].cached and 1 or 0) + (both[2].cached and 1 or 0))
      assert.equal(2, #logs[1].lines + #logs[2].lines)
      assert.matches("another fcvm", both[1].cached and logs[1].lines[1] or logs[2].lines[1])
      assert.same({ both[1].digest:sub(8) }, names(paths.images()))
    end))

    it("that are cancelled leave nothing", case(function(keep)
      local dir = keep(layout.make { layers = { { big = ("x"):rep(1 << 22) } } })
      local running = task.spawn(open, dir)
      running:cancel()
      running:wait()
      assert.is_false(running.ok)
      assert.same({}, names(paths.images()))
    end))

    it("are swept where their maker was killed", case(function(keep)
      local dir = keep(layout.make())
      local me = core.proc.identity()
      local dead = ("%s/.tmp-%d-%d-%s-1"):format(paths.images(), me.pid, me.start_time - 1, me.boot_id)
      local alive = ("%s/.tmp-%d-%d-%s-999"):format(paths.images(), me.pid, me.start_time, me.boot_id)
      layout.write(dead .. "/root/file", "x")
      layout.write(alive .. "/root/file", "x")
      layout.write(paths.images() .. "/.lock-old", "")
      open(dir)
      assert.is_nil(uv.fs_stat(dead))
      assert.is_nil(uv.fs_stat(paths.images() .. "/.lock-old"))
      assert.is_truthy(uv.fs_stat(alive))
    end))

    it("that are larger than the disk say both sizes", case(function(keep)
      local dir = keep(layout.make { layers = { { big = ("x"):rep(24 << 20) } } })
      paths.ensure(paths.images())
      process.run { "mount", "-t", "tmpfs", "-o", "size=8m", "fcvm-test", paths.images() }
      task.defer(function() process.run { "umount", paths.images() } end)
      fails(73, "it needs at least 24.0 MiB, and .* has %d.%d MiB free", dir)
      -- One whose size cannot be known before fills it.
      local raw = keep(layout.make { compression = "zstd", layers = { { big = ("x"):rep(24 << 20) } } })
      fails(73, "the disk is full", raw)
    end))
  end)

  describe("archives", function()
    local function archived(keep, transport, suffix)
      local dir, entry = layout.make()
      local out = keep(layout.directory()) .. "/img" .. suffix
      process.run { "skopeo", "copy", "-q", "--insecure-policy", "oci:" .. keep(dir), transport .. ":" .. out
        .. (transport == "docker-archive" and ":localhost/thing:v1" or "") }
      return out, entry
    end

    it("are stored once and then known by inode and time", case(function(keep)
      local file = archived(keep, "docker-archive", ".tar")
      local first = open("docker-archive:" .. file)
      assert.is_false(first.cached)
      assert.equal("hello\n", (content(first.store, "etc/motd")))
      for _, reference in ipairs { "docker-archive:" .. file, file, "docker-archive:" .. file .. ":localhost/thing:v1" } do
        local again = open(reference)
        assert.is_true(again.cached)
        assert.equal(first.digest, again.digest)
      end
      assert.is_true(open(file).seconds < 0.05)
      fails(66, "no image of that name", "docker-archive:" .. file .. ":localhost/thing:v2")
    end))

    it("may be of the OCI kind, compressed, and have colons in their names", case(function(keep)
      local file, entry = archived(keep, "oci-archive", ".tar")
      assert.equal(entry.digest, open(file).digest)
      local docker = archived(keep, "docker-archive", ".tar")
      local digest = open(docker).digest
      process.run { "gzip", "-k", docker }
      assert.equal(digest, open(docker .. ".gz").digest)
      local odd = docker:match "^(.*)/" .. "/a:b c.tar"
      uv.fs_rename(docker, odd)
      assert.equal(digest, open("docker-archive:" .. odd).digest)
      assert.equal(digest, open("docker-archive:" .. odd .. ":localhost/thing:v1").digest)
    end))

    it("of several images need a name", case(function(keep)
      local dir, file = keep(layout.make()), keep(layout.directory()) .. "/two.tar"
      local out = file:match "^(.*)/" .. "/unpacked"
      process.run { "skopeo", "copy", "-q", "--insecure-policy", "oci:" .. dir, "docker-archive:" .. file .. ":localhost/a:1" }
      paths.ensure(out)
      process.run { "tar", "-xf", file, "-C", out }
      local list = json.decode(core.disk.read(out .. "/manifest.json", 1 << 20), "manifest.json")
      list[2] = { Config = list[1].Config, Layers = list[1].Layers, RepoTags = { "localhost/b:1" } }
      uv.fs_chmod(out .. "/manifest.json", 420)
      layout.write(out .. "/manifest.json", json.encode(list))
      process.run { "tar", "-cf", file, "-C", out, "." , "--transform=s,^./,," }
      fails(64, "it holds several images", file)
      assert.equal("localhost/b:1", open("docker-archive:" .. file .. ":localhost/b:1").reference)
    end))

    it("that are cut short or none are refused", case(function(keep)
      local file = archived(keep, "docker-archive", ".tar")
      local text = core.disk.read(file, 1 << 24)
      layout.write(file, text:sub(1, 2000))
      fails(65, "corrupt", file)
      layout.write(file, ("no archive "):rep(200))
      fails(65, "no image archive", file)
      layout.write(file, "")
      fails(65, "no image archive", "docker-archive:" .. file)
      fails(66, "no such file", "docker-archive:" .. file .. "x")
    end))
  end)

  describe("registries", function()
    -- A layout and a registry that misbehaves on demand with it.
    local function serve(keep, mode, options)
      local dir, entry = layout.make(options)
      local fake = registry.fake(keep(dir), { latest = entry.digest }, mode)
      return ("127.0.0.1:%d/team/web"):format(fake.port), fake, entry
    end

    it("of Debian's kind are pulled from once", case(function(keep)
      local real = registry.real(keep(layout.directory()))
      local dir, entry = layout.make()
      local name = ("localhost:%d/team/web"):format(real.port)
      process.run { "skopeo", "copy", "-q", "--insecure-policy", "--dest-tls-verify=false", "oci:" .. keep(dir),
        "docker://" .. name .. ":1" }
      local first = open(name .. ":1")
      assert.is_false(first.cached)
      assert.equal(entry.digest, first.digest)
      assert.equal(name .. ":1", first.reference)
      assert.equal("hello\n", (content(first.store, "etc/motd")))
      assert.is_true(open("docker://" .. name .. ":1").cached)
      assert.is_true(open(name .. "@" .. entry.digest).cached)
      fails(66, "manifest unknown", name .. ":2")
      fails(66, "", ("localhost:%d/team/nothing"):format(real.port))
    end))

    it("are not asked again for what is stored, unless always", case(function(keep)
      local name, fake, entry = serve(keep)
      assert.is_false(open(name).cached)
      local asked, blobs = #fake.requests, fake.blobs
      local again = open(name)
      assert.is_true(again.cached and again.seconds < 0.05)
      assert.is_true(open(name, { pull = "never" }).cached)
      assert.equal(asked, #fake.requests)
      assert.is_true(open(name, { pull = "always" }).cached)
      assert.is_true(#fake.requests > asked)
      assert.is_true(fake.blobs <= blobs + 1)
      local other = layout.image(fake.layout, { layers = { { new = "new" } } })
      fake.tags.latest = other.digest
      assert.equal(entry.digest, open(name).digest)
      assert.equal(other.digest, open(name, { pull = "always" }).digest)
      assert.equal(other.digest, open(name).digest)
      fails(66, "not stored here", name .. ":other", { pull = "never" })
    end))

    it("are pulled from once by two runs at the same time", case(function(keep)
      local name, fake = serve(keep)
      task.parallel(2, function() return open(name) end)
      local layers = 0
      for _, request in ipairs(fake.requests) do
        if request:match "GET .*/blobs/" then layers = layers + 1 end
      end
      -- The config to see the architecture; then config and layer.
      assert.equal(3, layers)
    end))

    it("give the architecture that is asked for, or say what they have", case(function(keep)
      local name, fake = serve(keep)
      local arm = layout.image(fake.layout, { arch = "arm64", platform = true })
      local amd = layout.image(fake.layout, { layers = { { x = "y" } }, platform = true })
      local index = layout.blob(fake.layout, json.encode { schemaVersion = 2, manifests = { arm, amd },
        mediaType = "application/vnd.oci.image.index.v1+json" })
      fake.tags.both, fake.tags.arm = index.digest, arm.digest
      assert.equal(amd.digest, open(name .. ":both").digest)
      fails(65, "it is for arm64, amd64, not for riscv64", name .. ":both", { arch = "riscv64" })
      fails(65, "it is for arm64, not for amd64", name .. ":arm")
    end))

    it("that want a login say so, and take one", case(function(keep)
      local name, fake = serve(keep, { authorization = "Basic dXNlcjpzZWNyZXQ=" })
      local err = fails(77, "%(401%)", name)
      assert.matches("skopeo login 127.0.0.1:" .. fake.port .. ", or REGISTRY_AUTH_FILE", err.hint)
      local file = keep(layout.directory()) .. "/auth.json"
      layout.write(file, json.encode { auths = { ["127.0.0.1:" .. fake.port] = { auth = "dXNlcjpzZWNyZXQ=" } } })
      uv.os_setenv("REGISTRY_AUTH_FILE", file)
      task.defer(function() uv.os_unsetenv "REGISTRY_AUTH_FILE" end)
      assert.is_false(open(name).cached)
      fake.mode.authorization = "Basic other"
      fails(77, "%(401%)", name, { pull = "always" })
    end))

    it("that answer 429 are asked again after what they say", case(function(keep)
      local name = serve(keep, { too_many = 2, retry_after = 1 })
      local log = recorder()
      local began = task.now()
      assert.is_false(open(name, { log = log, timeout = 0.9 }).cached)
      assert.is_true(task.now() - began >= 2)
      assert.matches("^127.0.0.1:%d+ answers 429 %(too many requests%); trying again in 1 s", log.lines[1])
      assert.equal(3, #log.lines)
    end))

    it("that answer 429 for too long are given up", case(function(keep)
      local name = serve(keep, { too_many = 1000, retry_after = 50 })
      local began = task.now()
      fails(75, "that would be 50 s", name, { patience = 20 })
      assert.is_true(task.now() - began < 10)
      name = serve(keep, { too_many = 1000, retry_after = 0 })
      fails(75, "429", name)
    end))

    it("that are silent are given up", case(function(keep)
      for _, what in ipairs { "/v2/$", "manifests", "blobs" } do
        local name = serve(keep, { silent = what })
        local began = task.now()
        fails(69, "has not answered for 1 s", name, { timeout = 1 })
        assert.is_true(task.now() - began < 5)
      end
    end))

    it("that cannot be reached, fail or do not exist say so", case(function(keep)
      fails(69, "nothing listens there", ("localhost:%d/x"):format(registry.free_port()))
      fails(69, "localhost", "localhost:1/x")
      fails(69, "localhost:4290", "localhost:4290/x") -- no answer of 429
      fails(69, "cannot be used", (serve(keep, { fail = 500 })))
      fails(69, "", "registry.invalid/x", { timeout = 20 })
    end))

    it("that give other bytes than they promise are refused", case(function(keep)
      local name = serve(keep, { break_blobs = true }, { layers = { { file = noise(5000) } } })
      fails(65, "digest", name)
    end))
  end)
end)
