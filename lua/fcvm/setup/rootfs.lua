-- SPDX-License-Identifier: Apache-2.0
--- The guest's root file system: Debian's essential packages, Podman and crun, as an ext4 file that is the same on every
-- host that has the same packages. docs/setup.md says what is in it, and why.
local uv = require "luv"
local errors = require "fcvm.errors"
local ext4 = require "fcvm.setup.ext4"
local json = require "fcvm.json"
local machine = require "fcvm.machine"
local paths = require "fcvm.paths"
local progress = require "fcvm.progress"
local tar = require "fcvm.setup.tar"
local task = require "fcvm.task"
local workshop = require "fcvm.setup.workshop"

local M = {}

local VERSION = 1                -- of what is done here: another one means that the file is made anew
local SUITE = "bookworm"
local TIME = 1735689600          -- 2025-01-01: every file is of this time, or of its package's where that is earlier
local UUID = "b5f0e1c7-3a52-4d0e-9c1b-fc00000000f5"
local ROOM = 1 << 30             -- free for containers' own files; it costs nothing until it is written
local MMDEBSTRAP_SECONDS = 1800

--- What is installed beside Debian's essential packages. crun is the small one of the two runtimes that podman depends on;
-- catatonit is podman run --init; netavark stands for containernetworking-plugins (45 MB), of which podman needs one.
M.packages = { "podman", "crun", "conmon", "catatonit", "netavark" }

--- Files of our own, in place of the packages'.
M.files = {
  ["/etc/containers/storage.conf"] = [[
# Images are on a read-only disk that the agent mounts; containers' own files are on the root disk.
[storage]
driver = "overlay"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"

[storage.options]
additionalimagestores = ["/run/fcvm/images"]

[storage.options.overlay]
mountopt = "nodev"
]],
  ["/etc/containers/containers.conf"] = [[
# One container, which has the VM to itself: the VM is its limit and its wall, so it has the VM's network, and neither
# systemd nor an event log is there to be told of it. Podman's seccomp filter and capabilities stay as they are.
[containers]
netns = "host"
init_path = "/usr/bin/catatonit"

[engine]
runtime = "crun"
cgroup_manager = "cgroupfs"
events_logger = "none"
image_default_transport = ""
pull_policy = "never"

[network]
network_backend = "netavark"
]],
  ["/etc/containers/policy.json"] = [[{ "default": [{ "type": "insecureAcceptAnything" }] }
]],
  ["/etc/containers/registries.conf"] = [[
# The host pulls; the guest never does.
unqualified-search-registries = []
]],
  ["/etc/hostname"] = "fcvm\n",
  ["/etc/hosts"] = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
  ["/etc/resolv.conf"] = "", -- the agent writes it
  ["/etc/machine-id"] = "",  -- each clone has its own
  ["/etc/fstab"] = "",
}

--- Directories that are there, empty.
M.directories = { "/dev", "/proc", "/sys", "/run", "/tmp", "/var/tmp", "/var/log", "/var/lib/containers" }

-- What a guest has no use for, or what differs from build to build.
local dropped = { "^/dev/", "^/proc/", "^/sys/", "^/run/", "^/tmp/", "^/var/tmp/", "^/var/log/.", "^/var/cache/.",
  "^/var/lib/apt/.", "^/var/lib/dpkg/.*%-old$", "^/var/lib/dpkg/lock", "^/etc/containers/registries%.conf%.d",
  "^/etc/containers/libpod%.conf$", "^/usr/share/man/.", "^/usr/share/info/.", "^/usr/share/locale/.", "^/usr/share/lintian",
  "^/usr/share/bug", "^/usr/lib/systemd/system", "^/lib/systemd/system", "^/etc/systemd/", "^/etc/.*%-$", "^/etc/%.pwd%.lock$",
  "%.dpkg%-[a-z]+$" }

local function keeps(path)
  for _, pattern in ipairs(dropped) do
    if path:find(pattern) then return false end
  end
  -- Licences stay; the rest of the documentation goes.
  if path:find "^/usr/share/doc/" then return path:find "/copyright$" ~= nil or path:find "^/usr/share/doc/[^/]+$" ~= nil end
  return true
end

--- What the file system holds, from the members of mmdebstrap's archive, whose data is below `tree`: without what a guest
-- does not need, with our files in, hard links made files of their own. `write(name, data)` keeps data and returns its path.
function M.entries(members, tree, write)
  local entries, by_path, sizes = {}, {}, {}
  local function put(entry)
    if by_path[entry.path] then
      entries[by_path[entry.path]] = entry
    else
      entries[#entries + 1] = entry
      by_path[entry.path] = #entries
    end
  end
  for _, member in ipairs(members) do
    if member.type == "file" then sizes[member.path] = member.size end
    if keeps(member.path) then
      local entry = { path = member.path, type = member.type, mode = member.mode, uid = member.uid, gid = member.gid,
        size = member.size, mtime = math.min(member.mtime, TIME), target = member.target, major = member.major,
        minor = member.minor }
      if member.type == "file" then entry.source = tree .. member.path end
      if member.type == "hardlink" then
        entry.type, entry.source, entry.size = "file", tree .. member.path, sizes[member.target] or 0
      end
      for key, value in pairs(member.xattrs or {}) do
        entry.xattr_files = entry.xattr_files or {}
        entry.xattr_files[key] = write("xattr" .. #entries .. key, value)
      end
      put(entry)
    end
  end
  for _, path in ipairs(M.directories) do
    local sticky = path == "/tmp" or path == "/var/tmp"
    put { path = path, type = "directory", mode = sticky and 1023 or 493, uid = 0, gid = 0, mtime = TIME }
  end
  for path, data in pairs(M.files) do
    local parent = path:match "^(.*)/"
    while parent ~= "" and not by_path[parent] do
      put { path = parent, type = "directory", mode = 493, uid = 0, gid = 0, mtime = TIME }
      parent = parent:match "^(.*)/"
    end
    put { path = path, type = "file", mode = 420, uid = 0, gid = 0, mtime = TIME, size = #data,
      source = write(path:gsub("/", "%%"), data) }
  end
  return entries
end

local function packages_of(status)
  local list = {}
  for paragraph in (status .. "\n"):gmatch "(.-)\n\n" do
    local name, version = paragraph:match "Package: ([^\n]+)", paragraph:match "\nVersion: ([^\n]+)"
    if name and version then list[name] = version end
  end
  return list
end

-- Shows on the bar what mmdebstrap says that it does.
local function follow(bar)
  local rest = ""
  return function(chunk)
    rest = rest .. chunk
    for line in rest:gmatch "([^\n]*)\n" do
      local text = line:match "^I: (.-)%.*$"
      if text then
        bar:say(text)
        -- Not a step: it may say more than it did when it was counted, and is done when it ends.
        bar:set(bar.value + 1)
      end
    end
    rest = rest:match "[^\n]*$"
  end
end

local PHASES = 14 -- lines that mmdebstrap says on its way

-- mmdebstrap's archive, which stays in downloads/ until the file system is made: it is the long part.
local function archive(options, key, directory, bar)
  local kept = workshop.downloads() .. "/rootfs-" .. key .. ".tar"
  if uv.fs_stat(kept) then return kept end
  local out = directory .. "/rootfs.tar"
  local argv = { "mmdebstrap", "--variant=essential", "--format=tar", "--include=" .. table.concat(M.packages, ","),
    "--architectures=" .. machine.arch().debian, "--aptopt=Acquire::Languages \"none\"", "--aptopt=Acquire::Retries \"2\"",
    "--aptopt=Acquire::http::Timeout \"30\"", "--aptopt=APT::Sandbox::User \"root\"", SUITE, out, options.mirror }
  argv.env = { SOURCE_DATE_EPOCH = TIME, LC_ALL = "C.UTF-8", DEBIAN_FRONTEND = "noninteractive",
    -- Without root, mmdebstrap's own user must get at its directory, which ours would not allow.
    TMPDIR = uv.getuid() == 0 and directory or nil }
  argv.timeout, argv.op, argv.check = MMDEBSTRAP_SECONDS, "make root file system", false
  local said = {}
  local count = follow(bar)
  argv.on_stderr = function(chunk)
    said[#said + 1] = chunk
    count(chunk)
  end
  local result = workshop.run(argv)
  if result.status ~= 0 then
    local text, why = table.concat(said), nil
    for line in text:gmatch "[^\r\n]+" do
      if line:match "^[EW]: " and not line:match "sandbox" then why = why or line:sub(4) end
    end
    errors.raise { op = "make root file system", subject = "mmdebstrap", name = "EIO", status = errors.status.unavailable,
      message = why or text:gsub("%s+$", ""):match "[^\n]*$",
      hint = uv.getuid() == 0 and "is Debian's archive in reach? fcvm setup rootfs tries again"
        or "without root mmdebstrap takes the package uidmap and a line of yours in /etc/subuid and /etc/subgid" }
  end
  paths.ensure(workshop.downloads())
  workshop.publish { { out, kept } }
  return kept
end

local function place(name) return paths.rootfs() .. "/" .. name end

-- What decides the content, apart from the versions that Debian has at the time.
local function key_of(options, directory)
  local files = {}
  for path, data in pairs(M.files) do files[#files + 1] = path .. "\0" .. data end
  table.sort(files)
  workshop.write(directory .. "/key", json.encode { version = VERSION, suite = SUITE, packages = M.packages, files = files,
    mirror = options.mirror, arch = machine.arch().debian, directories = M.directories, dropped = dropped })
  return workshop.digest(directory .. "/key")
end

--- The record of the root file system where its file is what it says and, with `key`, was made by these rules; nil
-- otherwise. A file whose inode, size and time are those recorded is not read again; any other is, whole.
function M.verified(key)
  local record = workshop.record(place "rootfs.json")
  if not record or type(record.sha256) ~= "string" or (key and record.key ~= key) then return nil end
  local stamp = workshop.stamp(place "rootfs.ext4")
  if not stamp then return nil end
  if stamp ~= record.stamp and workshop.digest(place "rootfs.ext4") ~= record.sha256 then return nil end
  return record
end

local function make(options, key, directory, bar)
  local tarball = archive(options, key, directory, bar)
  bar:say "reading the archive"
  local members = tar.members(tarball, function() task.sleep(0) end)
  local tree, own = paths.ensure(directory .. "/tree"), paths.ensure(directory .. "/own")
  bar:say "unpacking"
  workshop.run { "tar", "-xf", tarball, "-C", tree, "--no-same-owner", "--delay-directory-restore", "--exclude=./dev/*",
    op = "unpack root file system" }
  local entries = M.entries(members, tree, function(name, data)
    local path = own .. "/" .. name:gsub("[^%w%.%%]", "_")
    workshop.write(path, data)
    return path
  end)
  local size = ext4.size(entries, options.room or ROOM)
  local done, base = 0, bar.value
  bar:set(base, base + #entries)
  bar:say "filling the file system"
  ext4.make(directory .. "/rootfs.ext4", { entries = entries, size = size, time = TIME, uuid = UUID, label = "fcvm-root",
    directory = directory, on_entry = function()
      done = done + 1
      bar:set(base + done)
    end })
  local status = io.open(tree .. "/var/lib/dpkg/status")
  local packages = packages_of(status and status:read "a" or "")
  if status then status:close() end
  bar:say "hashing"
  local record = { key = key, sha256 = workshop.digest(directory .. "/rootfs.ext4"), size = size, suite = SUITE,
    entries = #entries, packages = packages }
  -- The mode is set before the stamp is taken; a rename changes neither inode nor time.
  record.stamp = workshop.stamp(directory .. "/rootfs.ext4")
  workshop.write_record(directory .. "/record", record)
  workshop.publish { { directory .. "/rootfs.ext4", place "rootfs.ext4" }, { directory .. "/record", place "rootfs.json" } }
  workshop.remove(tarball)
  return record
end

local KNOWN = { force = "boolean", mirror = "string", room = "integer" }

--- Makes <data>/rootfs/rootfs.ext4. Options: force (even if it is there: with the newest packages), mirror (of Debian), room
-- (bytes free for containers, 1 GiB). Returns {changed=, sha256=, size=, packages={name = version}}.
function M.setup(options)
  options = errors.options("setup.rootfs", options or {}, KNOWN)
  return task.scope(function()
    local bar <close> = progress("rootfs", PHASES)
    workshop.lock()
    local directory = workshop.directory()
    local key = key_of(options, directory)
    local record = not options.force and M.verified(key)
    if record then
      record.changed = false
      bar:done(("is there and verified, sha256 %s"):format(record.sha256))
      return record
    end
    if options.force then workshop.remove(workshop.downloads() .. "/rootfs-" .. key .. ".tar") end
    record = make(options, key, directory, bar)
    record.changed = true
    bar:done(("%d MiB, %d files, sha256 %s"):format(record.size >> 20, record.entries, record.sha256))
    return record
  end)
end

return M
