-- SPDX-License-Identifier: Apache-2.0
-- Parsers of foreign bytes that are written in Lua, under a mutation fuzzer: all that they may do is give a sound value or a
-- structured error, in bounded time and memory. FUZZ_SECONDS (5 in all), FUZZ_SEED.
describe("damaged", function()
  local blobs = require "fcvm.image.blobs"
  local dns_message = require "fcvm.dns_message"
  local egress = require "fcvm.egress"
  local fuzz = require "spec.support.fuzz"
  local health = require "fcvm.health"
  local image = require "fcvm.setup.kernel_image"
  local json = require "fcvm.json"
  local machine = require "fcvm.machine"
  local manifest = require "fcvm.image.manifest"
  local paths = require "fcvm.paths"
  local process = require "fcvm.process"
  local reference = require "fcvm.image.reference"
  local snapshot = require "fcvm.snapshot"
  local state = require "fcvm.state"
  local tar = require "fcvm.setup.tar"
  local task = require "fcvm.task"
  local uv = require "luv"

  local directory, before
  setup(function()
    directory, before = uv.fs_mkdtemp "/tmp/fcvm-fuzz-XXXXXX", paths.data()
    paths.set_data(directory)
  end)
  teardown(function()
    paths.set_data(before)
    task.main(function() process.run { "rm", "-rf", "--", directory } end)
  end)

  local function write(path, data)
    local file = assert(io.open(path, "wb"))
    file:write(data)
    file:close()
  end

  local A, B = "sha256:" .. ("a"):rep(64), "sha256:" .. ("0123456789abcdef"):rep(4)
  local LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
  local MANIFEST = "application/vnd.oci.image.manifest.v1+json"

  local function is_integer(value, least, most)
    assert(math.type(value) == "integer" and value >= least and value <= most, "out of range: " .. tostring(value))
  end

  local function is_string(value) assert(type(value) == "string", "no string: " .. tostring(value)) end

  -- A list without holes and other keys; each item is looked at.
  local function is_list(value, look)
    local count = 0
    for key in pairs(value) do
      assert(math.type(key) == "integer", "no list")
      count = count + 1
    end
    for i = 1, count do look(value[i]) end
  end

  local targets = {}

  targets["JSON"] = { mutate = fuzz.json, seeds = {
    json.encode { schemaVersion = 2, layers = { { digest = A, size = 5 } }, text = 'quo"te\\ \n',
      list = { 1, 2.5, -3, true, {} } },
    "[]", "{}", '"x"', "[[[[[[[[[[1]]]]]]]]]]", '{"a":{"b":{"c":"\\u00e9\\ud83d\\ude00"}}}',
  }, parse = function(text) return json.decode(text, "it") end, check = function(value)
    if value ~= nil then json.encode(value) end
  end }

  targets["manifests"] = { mutate = fuzz.json, seeds = {
    json.encode { schemaVersion = 2, mediaType = MANIFEST, config = { digest = A, size = 100, mediaType = "x" },
      layers = { { digest = A, size = 5, mediaType = LAYER }, { digest = B, size = 7, mediaType = LAYER } } },
  }, parse = function(text) return manifest.manifest("x", manifest.decode("x", text, "manifest")) end, check = function(value)
    assert(manifest.hex(value.config.digest) == value.config.hex)
    is_integer(value.size, 0, 1 << 56)
    is_list(value.layers, function(layer)
      assert(layer.hex and manifest.hex(layer.digest) == layer.hex)
      is_integer(layer.size, 0, 1 << 46)
    end)
  end }

  targets["indexes"] = { mutate = fuzz.json, seeds = {
    json.encode { schemaVersion = 2, manifests = { { digest = A, size = 5, platform = { os = "linux", architecture = "arm64" } },
      { digest = B, size = 7, platform = { os = "linux", architecture = "amd64" } } } },
    json.encode { schemaVersion = 2, manifests = { { digest = B, size = 7 } } },
  }, parse = function(text)
    local document = manifest.decode("x", text, "index")
    manifest.is_index(document)
    return manifest.choose("x", manifest.entries("x", document), "amd64")
  end, check = function(entry) assert(manifest.hex(entry.digest)) end }

  targets["configs"] = { mutate = fuzz.json, seeds = {
    json.encode { os = "linux", architecture = "amd64", rootfs = { type = "layers", diff_ids = { A, B } }, config = {
      Cmd = { "nginx", "-g" }, Entrypoint = { "/entry" }, Env = { "PATH=/bin", "X=" }, User = "www", WorkingDir = "/srv",
      StopSignal = "SIGQUIT", ExposedPorts = { ["80/tcp"] = json.object {}, ["443"] = json.object {} } } },
  }, parse = function(text)
    local config, diffs = manifest.config("x", manifest.decode("x", text, "config"), "amd64")
    return { config, diffs }
  end, check = function(value)
    for _, key in ipairs { "Cmd", "Entrypoint", "Env", "ExposedPorts" } do
      if value[1][key] then is_list(value[1][key], is_string) end
    end
    for _, key in ipairs { "User", "WorkingDir", "StopSignal" } do
      if value[1][key] then is_string(value[1][key]) end
    end
    is_list(value[2], function(digest) assert(manifest.hex(digest)) end)
  end }

  targets["layouts"] = { mutate = fuzz.json, seeds = {
    json.encode { schemaVersion = 2, manifests = {
      { digest = A, size = 5, mediaType = MANIFEST, annotations = { ["org.opencontainers.image.ref.name"] = "latest" } },
      { digest = B, size = 7, mediaType = MANIFEST, annotations = { ["org.opencontainers.image.ref.name"] = "other" } } } },
    json.encode { schemaVersion = 2, manifests = { { digest = A, size = 5 } } },
  }, parse = function(text)
    write(directory .. "/index.json", text)
    return (blobs.layout("x", directory, nil, "amd64"))
  end, check = function(digest) assert(manifest.hex(digest)) end }

  targets["state records"] = { mutate = fuzz.json, prepare = function() paths.ensure(paths.state()) end, seeds = {
    json.encode { vm_id = "vm-0123456789ab", name = "web", pid = 1, start_time = 5, boot_id = ("0"):rep(36), process_type = "vm",
      status = "running", health = "healthy", slot = 77, address = "10.231.1.2", created_at = 1700000000, image = "nginx",
      labels = { a = "b" }, stages = { network = 0.1 }, memory_mib = 512, cpus = 1 },
    json.encode { vm_id = "vm-0123456789ab", name = "web1", pid = 1, start_time = 5, boot_id = ("0"):rep(36),
      process_type = "clone", status = "running", health = "healthy", slot = 77, serve_pid = 2, snapshot = "web" },
    json.encode { serve_id = "vm-0123456789ab", name = "web1", pid = 1, start_time = 5, boot_id = ("0"):rep(36), slot = 3,
      process_type = "serve", status = "running", health = "healthy", snapshot = "web", clones = 3, memory = "uffd" },
  }, parse = function(text)
    write(paths.state() .. "/vm-0123456789ab.json", text)
    -- What `ls` does must go on, whatever lies there.
    state.scan()
    return state.read "vm-0123456789ab"
  end, check = function(record)
    assert(state.is_id(state.id(record)) and state.is_name(record.name))
    if record.process_type ~= "serve" or record.slot ~= nil then is_integer(record.slot, 0, 16383) end
    is_integer(record.pid, 1, (1 << 31) - 1)
    is_integer(record.start_time, 0, math.maxinteger)
  end }

  targets["snapshots"] = { mutate = fuzz.json, prepare = function() uv.fs_mkdir(directory .. "/snap", 448) end, seeds = {
    json.encode { version = snapshot.version, tag = "web", image = "nginx", firecracker = "1.12.1", created_at = 1700000000,
      memory_mib = 256, cpus = 1, files = { ["memory.bin"] = { size = 5, mtime_ns = 7 } }, plan = { name = "web" },
      host = { cpu = "x", kernel = "6.1" } },
  }, parse = function(text)
    write(directory .. "/snap/snapshot.json", text)
    local meta, err = snapshot.read(directory .. "/snap", "web")
    if not meta then return nil, err end
    -- None of its files is there: that is what must be said, whatever it says of them.
    local ok, why = pcall(snapshot.check_parts, directory .. "/snap", meta)
    assert(not ok, "files that are not there are taken for whole")
    assert(type(why) == "table", why)
    return meta
  end, check = function(meta)
    assert(meta.tag == "web" and type(meta.files) == "table" and type(meta.plan) == "table" and type(meta.host) == "table")
    is_integer(meta.memory_mib, math.mininteger, math.maxinteger)
  end }

  local function archive()
    local base = directory .. "/t/" .. ("a-directory-with-a-long-name/"):rep(8)
    paths.ensure(base:sub(1, -2))
    write(base .. "file", ("data"):rep(300))
    write(directory .. "/t/script", "#!")
    uv.fs_symlink("script", directory .. "/t/link")
    uv.fs_link(directory .. "/t/script", directory .. "/t/twin")
    local texts = {}
    task.main(function()
      for i, format in ipairs { "pax", "gnu", "ustar" } do
        texts[i] = process.run { "tar", "-C", directory .. "/t", "--sort=name", "--format=" .. format, "--record-size=512",
          "--mtime=@1000", "--owner=some:7", "--group=many:70000", "-c", "." }.stdout
      end
    end)
    return texts
  end

  targets["archives"] = { mutate = fuzz.tar, prepare = function(self) self.seeds = archive() end, parse = function(text)
    write(directory .. "/a.tar", text)
    return tar.members(directory .. "/a.tar")
  end, check = function(members)
    is_list(members, function(member)
      assert(member.path:sub(1, 1) == "/" and not (member.path .. "/"):find("/../", 1, true), "its path leads out")
      if member.type == "hardlink" then assert(not (member.target .. "/"):find("/../", 1, true), "its target leads out") end
      if member.target then is_string(member.target) end
      is_integer(member.mode, 0, 4095)
      is_integer(member.size, 0, 1 << 40)
      is_integer(member.uid, 0, 1 << 32)
      is_integer(member.gid, 0, 1 << 32)
      is_integer(member.mtime, math.mininteger, math.maxinteger)
    end)
  end }

  targets["kernel images"] = { mutate = fuzz.bytes, seeds = {
    ("\0"):rep(0x1f1) .. "\1" .. ("\0"):rep(0x10) .. "HdrS" .. ("<I2"):pack(0x20f) .. ("\0"):rep(0x40) ..
      ("<I4I4"):pack(64, 60) ..
      ("\0"):rep(0x400 + 64 - 0x250) .. "\x1f\x8b" .. ("p"):rep(58) .. ("\0"):rep(32),
    "MZ\0\0zimg" .. ("<I4I4"):pack(64, 60) .. ("\0"):rep(48) .. "\x28\xb5\x2f\xfd" .. ("p"):rep(600),
  }, parse = function(text)
    image.boots(text, "x86_64")
    image.boots(text, "aarch64")
    return image.payload(text, "it") or false
  end, check = function(payload)
    if payload then assert(#payload.data > 0 and #payload.argv == 2) end
  end }

  targets["references"] = { mutate = fuzz.bytes, seeds = { "nginx:alpine", "quay.io/a/b__c/d-e.f:T_1.2-3",
    "localhost:5000/x@" .. B,
    "docker://user/app", "127.0.0.1/x" }, parse = reference.parse, check = function(found)
    if found.kind ~= "registry" then return end
    assert(found.canonical:match "^[%w._/:@-]+$", "odd characters")
    assert(not (found.repository .. "/"):find("/../", 1, true) and not found.repository:find("//", 1, true))
  end }

  targets["health checks"] = { mutate = fuzz.bytes, seeds = { "http://localhost:8080/ready?x=1", "http://guest" },
    parse = health.read, check = function(check)
    is_integer(check.port, 1, 65535)
    assert(check.path:sub(1, 1) == "/" and not check.path:find "[%c ]")
  end }

  targets["egress policies"] = { mutate = fuzz.bytes, seeds = { "10.0.0.0/8,1.2.3.4:443", "deny", "example.org:443/tcp,db",
    "10.0.0.0/8:53/udp,0.0.0.0/0" }, parse = function(text) return egress.read(text) end, check = function(policy)
    if policy == "deny" or policy == "allow" then return end
    local rules = egress.rules(policy, "tap0", { "172.16.0.1" })
    assert(#policy > 0 and #policy <= 1024 and #rules.allow > 0)
    for i, entry in ipairs(egress.entries(policy)) do
      assert(entry.text == policy[i], "it does not read as itself")
      assert(not entry.name or #entry.name <= 253 and entry.name:match "^[%w.-]+$", "odd characters")
      if entry.port then is_integer(entry.port, 1, 65535) end
      if entry.network then is_integer(math.tointeger(tonumber(entry.network:match "/(%d+)$")), 0, 32) end
    end
    for _, set in ipairs(rules.sets) do assert(#set.name < 32 and set.name:match "^%l[%w_]*$") end
  end }

  local ANSWER = "\0\7\x81\x80\0\1\0\2\0\0\0\0\3one\7example\0\0\1\0\1" ..
    "\xc0\x0c\0\5\0\1\0\0\0\60\0\5\2to\xc0\x10" .. "\2to\xc0\x10\0\1\0\1\0\0\0\60\0\4\10\0\0\1"
  targets["answers of DNS"] = { mutate = fuzz.bytes, seeds = { ANSWER, "\0\7\1\0\0\1\0\0\0\0\0\0\1a\2bc\0\0\1\0\1" },
    -- What makes no sense is no question and no answer; the fuzzer wants an error for it.
    parse = function(text)
      local name, list = dns_message.addresses(text)
      local question = dns_message.question(text)
      local refusal = dns_message.refusal(text)
      assert(#refusal >= 12 and #refusal <= #text + 12 and refusal:byte(3) >= 0x80, "a refusal that is none")
      assert(name == nil or name == question)
      if not question then return nil, { op = "read", status = 65, message = "no question" } end
      return { name = question, list = list }
    end, check = function(found)
      assert(#found.name <= 255 and found.name:match "^[%w_.?-]*$", "odd characters")
      for _, address in ipairs(found.list) do assert(address:match "^%d+%.%d+%.%d+%.%d+$") end
    end }

  targets["sizes"] = { mutate = fuzz.bytes, seeds = { "512M", "1.5GiB", "1024" }, parse = machine.size,
    check = function(bytes) is_integer(bytes, 0, 1 << 52) end }

  local names = {}
  for name in pairs(targets) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    it(name .. " are a sound value or a structured error", function()
      local target = targets[name]
      target.name = name:gsub(" ", "-")
      if target.prepare then target:prepare() end
      local done = fuzz.run(target, fuzz.seconds / #names)
      -- Damage that is always, or never, noticed says that nothing was tried.
      assert.is_true(done.values > 0 and done.errors > 0, ("%d values, %d errors"):format(done.values, done.errors))
      if os.getenv "FUZZ_SECONDS" then print(("%s: %d rounds, %d errors"):format(name, done.rounds, done.errors)) end
    end)
  end
end)
