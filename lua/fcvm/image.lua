-- SPDX-License-Identifier: Apache-2.0
--- Images: pulled or read on the host, kept by digest as read-only stores that Podman in the guest uses as they are.
--
--     images/<hex of the manifest's digest>/store.squashfs, image.json
--     images/refs/<arch>/…                what a registry reference or an archive was when it was stored
--     images/.tmp-<pid>-<start>-<boot>-N  one that is being made; swept once its maker is dead
--     images/.lock-…                      held while an image is made, so that a second run waits instead of pulling
local uv = require "luv"
local blobs = require "fcvm.image.blobs"
local core = require "fcvm.core"
local errors = require "fcvm.errors"
local json = require "fcvm.json"
local log = require "fcvm.log"
local machine = require "fcvm.machine"
local manifest = require "fcvm.image.manifest"
local paths = require "fcvm.paths"
local process = require "fcvm.process"
local progress = require "fcvm.progress"
local reference = require "fcvm.image.reference"
local skopeo = require "fcvm.image.skopeo"
local store = require "fcvm.image.store"
local task = require "fcvm.task"

local M = {}

local VERSION = 1
local LOCK_POLL = 0.1
local counter = 0

local function remove(path) process.run { "rm", "-rf", "--", path, check = false, op = "remove" } end

-- The image with this digest as it was stored, or nil. A record that makes no sense counts as none.
local function stored(digest)
  local hex = manifest.hex(digest)
  if not hex then return nil end
  local dir = paths.images() .. "/" .. hex
  local text = core.disk.read(dir .. "/image.json", manifest.MAX)
  local record = text and json.decode(text, "image.json", manifest.MAX)
  if type(record) ~= "table" or record.version ~= VERSION or record.digest ~= digest or type(record.reference) ~= "string"
    or type(record.config) ~= "table" then
    return nil
  end
  local file = uv.fs_stat(dir .. "/store.squashfs")
  if not file or file.size ~= record.size then return nil end
  record.store = dir .. "/store.squashfs"
  return record
end

-- The file that remembers what `ref` was. Archives are known by inode, size and times: another content has others.
local function memory(ref, arch)
  local base = ("%s/refs/%s/"):format(paths.images(), arch)
  if ref.kind == "registry" then
    return ("%s%s/%s"):format(base, ref.repository, (ref.tag and ":" .. ref.tag or "@" .. ref.digest))
  end
  local file = uv.fs_stat(ref.path)
  if ref.kind ~= "archive" or not file then return nil end
  local inner = (ref.inner or ""):gsub("[^%w._-]", function(c) return ("%%%02x"):format(c:byte()) end)
  if #inner > 100 then return nil end
  return ("%s.archive/%x-%x-%x-%x.%x-%x.%x-%s"):format(base, file.dev, file.ino, file.size, file.mtime.sec, file.mtime.nsec,
    file.ctime.sec, file.ctime.nsec, inner)
end

local function recall(file)
  local text = file and core.disk.read(file, 4096)
  return text and text:match "^(sha256:%x+)\n$"
end

local function remember(file, digest)
  if not file or recall(file) == digest then return end
  paths.ensure(file:match "^(.*)/[^/]+$")
  errors.check(core.disk.write(file, digest .. "\n", 384))
end

-- Removes what makers that are dead left: their directories, whose names say who they were, and locks that nobody has.
local function sweep(dir)
  local scan, dead = uv.fs_scandir(dir), {}
  while scan do
    local name = uv.fs_scandir_next(scan)
    if not name then break end
    local pid, start, boot = name:match "^%.tmp%-(%d+)%-(%d+)%-([%x-]+)%-%d+$"
    if pid and not core.proc.alive { pid = tonumber(pid), start_time = tonumber(start), boot_id = boot } then
      dead[#dead + 1] = dir .. "/" .. name
    end
    local free = name:match "^%.lock%-" and core.proc.lock(dir .. "/" .. name)
    if free then
      uv.fs_unlink(dir .. "/" .. name)
      free:close()
    end
  end
  for _, path in ipairs(dead) do remove(path) end
end

local function workplace(dir)
  local me = errors.check(core.proc.identity())
  counter = counter + 1
  local path = ("%s/.tmp-%d-%d-%s-%d"):format(dir, me.pid, me.start_time, me.boot_id, counter)
  task.defer(function() remove(path) end)
  return paths.ensure(path)
end

-- Takes the lock `name` of the images' directory, waiting for whoever has it; it ends with the scope.
local function lock(dir, name, ref, options)
  local path = ("%s/.lock-%s"):format(dir, name)
  local told
  while true do
    local held, err = core.proc.lock(path)
    if held then
      task.defer(function()
        uv.fs_unlink(path)
        held:close()
      end)
      return
    end
    if err.name ~= "EAGAIN" then error(errors.new(err), 0) end
    if not told then options.log:info("%s is being stored by another fcvm; waiting for it", ref.text) end
    told = true
    task.sleep(LOCK_POLL)
  end
end

-- Has the content of `path` on the disk, without holding up the loop meanwhile.
local function sync(path)
  local file = errors.check_uv("open", path, uv.fs_open(path, "r", 0))
  local ok, failure = pcall(task.await, function(resume) uv.fs_fsync(file, resume) end)
  uv.fs_close(file)
  if not ok then error(failure, 0) end
  if failure then errors.raise { op = "sync", subject = path, name = failure:match "^%u+", message = failure } end
end

-- Builds the loaded `image` and puts it in its place; whoever was first there wins.
local function publish(image, tmp, dir, bar)
  local size = store.build(image, tmp, function(step) bar:say(step) end)
  sync(tmp .. "/out/store.squashfs")
  local record = { version = VERSION, reference = image.name or image.manifest.config.hex, digest = image.digest, size = size,
    arch = image.arch, config = json.object(image.config), created = os.time() }
  errors.check(core.disk.write(tmp .. "/out/image.json", json.encode(record, true) .. "\n", 420))
  local final = dir .. "/" .. manifest.hex(image.digest)
  -- What is there but was not taken for a stored image is broken.
  if not stored(image.digest) then remove(final) end
  local ok, err = core.disk.publish(tmp .. "/out", final)
  if not ok and not stored(image.digest) then error(errors.new(err), 0) end
  return assert(stored(image.digest))
end

local function file_in(dir)
  return function(hex) return dir .. "/" .. hex end
end

-- Brings the blobs here where they are not: returns the manifest's digest and the function that finds them.
local fetch = {}

function fetch.layout(ref, arch) return blobs.layout(ref.text, ref.path, ref.tag, arch) end

function fetch.archive(ref, _, tmp, options)
  local size = uv.fs_stat(ref.path).size
  store.need(ref.text, tmp, size)
  local dir = tmp .. "/blobs"
  skopeo.extract(ref, dir, { tmp = tmp, log = options.log })
  local digest = blobs.digests({ dir .. "/manifest.json" })[1]
  errors.check_uv("link", dir, uv.fs_link(dir .. "/manifest.json", dir .. "/" .. manifest.hex(digest)))
  return digest, file_in(dir)
end

function fetch.registry(ref, arch, tmp, options, bar)
  local with = { tmp = tmp, log = options.log, timeout = options.timeout, patience = options.patience }
  local digest, size = skopeo.resolve(ref, arch, with)
  if stored(digest) then return digest end
  store.need(ref.text, tmp, size * 2)
  local dir = tmp .. "/blobs"
  bar:set(0, size)
  skopeo.pull(ref, digest, dir, bar, with)
  bar:set(size)
  errors.check_uv("link", dir, uv.fs_link(dir .. "/manifest.json", dir .. "/" .. manifest.hex(digest)))
  return digest, file_in(dir)
end

-- The digest that `ref` is known by without asking anyone, or nil.
local function quick(ref, arch, file)
  if ref.kind == "layout" then return (blobs.layout(ref.text, ref.path, ref.tag, arch)) end
  return recall(file)
end

local function make(ref, arch, file, options)
  local dir = paths.ensure(paths.images())
  return task.scope(function()
    -- Two names of one image are pulled twice at worst; two runs of one name never.
    local name = ref.kind == "layout" and quick(ref, arch):sub(8) or blobs.digest(file or ref.text):sub(8)
    lock(dir, name, ref, options)
    local asked = ref.kind == "registry" and options.pull == "always"
    local found = not asked and stored(quick(ref, arch, file))
    if found then return found, true end
    sweep(dir)
    local tmp = workplace(dir)
    -- Whether it went well is said by who called, once the image is stored.
    local bar = progress(ref.text, nil, { unit = "bytes" })
    task.defer(function() bar:done(false) end)
    if bar.terminal then
      task.spawn(function()
        while true do
          task.sleep(0.2)
          bar:set(bar.value)
        end
      end)
    end
    local digest, path_of = fetch[ref.kind](ref, arch, tmp, options, bar)
    found = stored(digest)
    if not found then
      local image = blobs.load(ref.text, digest, path_of, arch)
      image.name, image.arch = ref.name, arch
      found = publish(image, tmp, dir, bar)
      remember(file, digest)
      return found, false
    end
    remember(file, digest)
    return found, true
  end)
end

local function seconds_of(name)
  local text = os.getenv(name)
  if not text or text == "" then return nil end
  local value = tonumber(text)
  if value and value > 0 and value < 86400 then return value end
  errors.raise { op = "read " .. name, subject = text, name = "EINVAL", message = "that is no number of seconds" }
end

local KNOWN = { reference = "string", arch = "string", pull = "string", log = "table", timeout = "number", patience = "number" }
local PULL = { missing = true, always = true, never = true }

--- Makes sure that an image is stored, and says where.
--
-- Options: reference (see docs/images.md), arch ("amd64", "arm64"; this host's), pull ("missing": a registry is asked for
-- what is not stored; "always": it is asked whether its image is another now; "never": it is not asked), log, timeout
-- (seconds that a registry may be silent, 30 or FCVM_REGISTRY_TIMEOUT), patience (seconds that a registry's 429 may make
-- us wait in all, 120 or FCVM_REGISTRY_PATIENCE).
--
-- Returns {reference= what Podman in the guest calls it, digest=, store= the squashfs, config=, size=, arch=, cached=,
-- seconds=}. Raises with status 64 (no reference), 65 (corrupt, or for another architecture), 66 (no such image), 69 (a
-- registry that does not answer), 73 (no space), 75 (429), 77 (login). Waits.
function M.open(options)
  options = errors.options("open image", options, KNOWN)
  local began = task.now()
  local pull = options.pull or "missing"
  if not PULL[pull] then
    errors.raise { op = "open image", name = "EINVAL", message = ("pull is '%s'"):format(pull),
      hint = "missing, always or never" }
  end
  local with = { pull = pull, log = options.log or log, timeout = options.timeout or seconds_of "FCVM_REGISTRY_TIMEOUT",
    patience = options.patience or seconds_of "FCVM_REGISTRY_PATIENCE" }
  local arch = options.arch or machine.arch().oci
  local ref = reference.parse(options.reference)
  local file = memory(ref, arch)
  local found, cached
  if ref.kind ~= "registry" or pull ~= "always" then found, cached = stored(quick(ref, arch, file)), true end
  if not found and pull == "never" and ref.kind == "registry" then
    errors.raise { op = "open image", subject = ref.text, name = "ENOENT", status = errors.status.missing_input,
      message = "it is not stored here, and pull is 'never'", hint = "pull it once: --pull missing" }
  end
  if not found then found, cached = make(ref, arch, file, with) end
  local seconds = task.now() - began
  if not cached then with.log:info("stored in %.1f s (%s)", seconds, store.size_text(found.size)) end
  return { reference = found.reference, digest = found.digest, store = found.store, config = found.config, size = found.size,
    arch = found.arch, cached = cached, seconds = seconds }
end

--- Removes what dead makers left in the images' directory. Waits.
function M.sweep() sweep(paths.images()) end

return M
