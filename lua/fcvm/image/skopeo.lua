-- SPDX-License-Identifier: Apache-2.0
--- skopeo: registries and archives. What it says is turned into errors that name the cause; its waiting for a registry
-- that answers 429 is shown, and a registry that stays silent is given up.
local uv = require "luv"
local blobs = require "fcvm.image.blobs"
local errors = require "fcvm.errors"
local manifest = require "fcvm.image.manifest"
local process = require "fcvm.process"
local store = require "fcvm.image.store"
local task = require "fcvm.task"

local M = {}

local SILENCE, PATIENCE = 30, 120 -- seconds: without a byte from a registry, and spent on its Retry-After
local POLL = 0.2

local status = errors.status

-- What skopeo's last words mean: the first pattern that fits. Later ones are wider.
local REGISTRY = {
  { "no space left on device", "ENOSPC", status.cannot_create, "the disk is full", "use another by --data-dir" },
  { "429", "EAGAIN", status.temporary, "the registry asks to come back later (429)",
    "wait, or log in for a higher limit: skopeo login %s" },
  { "toomanyrequests", "EAGAIN", status.temporary, "the registry asks to come back later (429)",
    "wait, or log in for a higher limit: skopeo login %s" },
  { "digest did not match", "EPROTO", status.data, "a blob's content is not what its digest says", "try again" },
  { "does not match", "EPROTO", status.data, "a blob's content is not what its digest says", "try again" },
  { "manifest unknown", "ENOENT", status.missing_input, "the registry has no such image", "check name and tag" },
  { "name unknown", "ENOENT", status.missing_input, "the registry has no such repository", "check its name" },
  { "unauthorized", "EACCES", status.permission, "the registry wants a login (401), or has no such image",
    "skopeo login %s, or REGISTRY_AUTH_FILE=FILE with one" },
  { "authentication required", "EACCES", status.permission, "the registry wants a login (401)",
    "skopeo login %s, or REGISTRY_AUTH_FILE=FILE with one" },
  { "invalid username/password", "EACCES", status.permission, "the registry refuses this login (401)",
    "skopeo login %s, or REGISTRY_AUTH_FILE=FILE with another" },
  { "denied", "EACCES", status.permission, "the registry denies it (403), or has no such image",
    "skopeo login %s, or REGISTRY_AUTH_FILE=FILE with one" },
  { "status code 403", "EACCES", status.permission, "the registry denies it (403)", "skopeo login %s" },
  { "http response to https client", "EPROTO", status.unavailable, "the registry speaks HTTP, not HTTPS",
    "plain HTTP is for registries on this machine only (localhost, 127.0.0.1)" },
  { "x509", "EPROTO", status.unavailable, "the registry's certificate is not trusted",
    "put its authority's certificate in /etc/containers/certs.d/%s" },
  { "connection refused", "ECONNREFUSED", status.unavailable, "nothing listens there", "is the registry running?" },
  { "no such host", "EIO", status.unavailable, "the registry's name is not known", "check its name and this host's DNS" },
  { "404", "ENOENT", status.missing_input, "the registry has no such image", "check name and tag" },
}

local ARCHIVE = {
  { "no space left on device", "ENOSPC", status.cannot_create, "the disk is full", "use another by --data-dir" },
  { "expected 1 item", "EINVAL", status.usage, "it holds several images", "docker-archive:FILE:REFERENCE names one of them" },
  { "tag .*not found", "ENOENT", status.missing_input, "it has no image of that name", "tar -xOf FILE manifest.json lists them" },
  { "reference .*not found", "ENOENT", status.missing_input, "it has no image of that name",
    "tar -xOf FILE manifest.json lists them" },
}

-- logfmt's quoted text, as skopeo writes its log.
local function message_of(line)
  local text = line:match 'msg="(.*)"%s*$' or line:match "msg=(%S+)"
  return text and text:gsub('\\"', '"'):gsub("\\n", " "):gsub("\\t", " ")
end

local function explain(words, known, subject, where, fallback)
  words = words:sub(1, 600)
  -- Digests and ports are no words, and may well have "429" in them.
  local lower = words:lower():gsub("%x+", function(digits) return #digits >= 32 and "" or nil end):gsub(":%d+", "")
  for _, row in ipairs(known) do
    local pattern, name, exit, meaning, hint = table.unpack(row)
    if lower:find(pattern) then
      errors.raise { op = fallback.op, subject = subject, name = name, status = exit,
        message = meaning .. ": " .. words, hint = hint and hint:find("%%s") and hint:format(where) or hint }
    end
  end
  fallback.message = fallback.message .. ": " .. words
  errors.raise(fallback)
end

local function policy()
  local home = os.getenv "HOME"
  for _, path in ipairs { "/etc/containers/policy.json", home and home .. "/.config/containers/policy.json" } do
    if uv.fs_stat(path) then return nil end
  end
  return "--insecure-policy"
end

-- skopeo's vector; what is large and temporary goes to `tmp`, which ends with us, and not to /var/tmp.
local function command(words, tmp)
  local list = { "skopeo", "--debug", "--tmpdir", tmp }
  local without = policy()
  if without then list[#list + 1] = without end
  for _, word in ipairs(words) do list[#list + 1] = word end
  return list
end

-- Reads skopeo's log by lines: keeps its last error, and tells `watch` what goes on.
local function reader(watch)
  local rest, last = "", ""
  local function line(text)
    local said = message_of(text)
    watch.active = task.now()
    if not said then return end
    if text:find("level=fatal", 1, true) or text:find("level=error", 1, true) then last = said end
    local seconds = said:match "Too many requests to .* sleeping for ([%d.]+) seconds"
    if seconds then watch.told_to_wait(tonumber(seconds)) end
  end
  return function(chunk)
    rest = rest .. chunk
    rest = rest:gsub("([^\n]*)\n", function(text)
      line(text)
      return ""
    end)
    if #rest > 65536 then rest = "" end
  end, function()
    if rest ~= "" then line(rest) end
    return last
  end
end

-- Runs skopeo for a registry. `growth()` gives a number that grows while data arrives. Cancelled with 69 after `silence`
-- seconds without a sign, and with 75 once the registry has made us wait for longer than `patience`.
local function run(words, ref, options, growth)
  local me = task.current()
  local silence, patience = options.timeout or SILENCE, options.patience or PATIENCE
  local watch = { active = task.now(), waited = 0 }
  function watch.told_to_wait(seconds)
    watch.waited = watch.waited + seconds
    watch.active = task.now() + seconds
    if watch.waited > patience then
      watch.too_long = true
    else
      options.log:info("%s answers 429 (too many requests); trying again in %g s", ref.domain, seconds)
    end
  end
  local feed, last = reader(watch)
  local list = command(words, options.tmp)
  list.on_stderr, list.check, list.op = feed, false, "pull image"
  return task.scope(function()
    task.spawn(function()
      local size = -1
      while true do
        task.sleep(POLL)
        local now = growth and growth() or -1
        if now ~= size then
          size = now
          watch.active = math.max(watch.active, task.now())
        end
        if watch.too_long then
          me:cancel(errors.new { op = "pull image", subject = ref.text, name = "EAGAIN", status = status.temporary,
            message = ("the registry asks to come back later (429): that would be %g s of waiting"):format(watch.waited),
            hint = "wait, or log in for a higher limit: skopeo login " .. ref.domain })
          return
        elseif task.now() - watch.active > silence then
          me:cancel(errors.new { op = "pull image", subject = ref.text, name = "ETIMEDOUT", status = status.unavailable,
            message = ("%s has not answered for %g s"):format(ref.domain, silence),
            hint = "is it reachable from here? FCVM_REGISTRY_TIMEOUT sets the seconds" })
          return
        end
      end
    end)
    local result = process.run(list)
    local words_of_it = last()
    if result.status == 0 then return result.stdout end
    if words_of_it == "" then words_of_it = "skopeo ended without a word" end
    return explain(words_of_it, REGISTRY, ref.text, ref.domain, { op = "pull image", subject = ref.text, name = "EIO",
      status = status.unavailable, message = "the registry cannot be used",
      hint = ("is %s reachable from here?"):format(ref.domain) })
  end)
end

local function inspect(ref, options, name, what)
  local words = { "inspect", "--raw" }
  if ref.plain then words[#words + 1] = "--tls-verify=false" end
  if what then words[#words + 1] = what end
  words[#words + 1] = "docker://" .. name
  return run(words, ref, options)
end

--- Asks the registry which manifest `ref` means for `arch`. Returns its digest and the sum of its blobs' sizes. Raises
-- what kept it from that: 77 for a login, 75 for too many requests, 69 for no answer, 66 for no such image, 65 for another
-- architecture. Options: log, tmp, timeout (seconds of silence), patience (seconds of Retry-After). Waits.
function M.resolve(ref, arch, options)
  local text = inspect(ref, options, ref.canonical)
  local document = manifest.decode(ref.text, text, "manifest")
  local digest = blobs.digest(text)
  if ref.digest and digest ~= ref.digest then manifest.corrupt(ref.text, "the registry gave another manifest: " .. digest) end
  if manifest.is_index(document) then
    local entry = manifest.choose(ref.text, manifest.entries(ref.text, document), arch)
    digest = entry.digest
    text = inspect(ref, options, ref.repository .. "@" .. digest)
    if blobs.digest(text) ~= digest then manifest.corrupt(ref.text, "the registry gave another manifest than " .. digest) end
    return digest, manifest.manifest(ref.text, manifest.decode(ref.text, text, "manifest")).size
  end
  local size = manifest.manifest(ref.text, document).size
  -- Better to know before the layers are here that they are for another machine.
  local config = inspect(ref, options, ref.repository .. "@" .. digest, "--config")
  manifest.config(ref.text, manifest.decode(ref.text, config, "config"), arch)
  return digest, size
end

-- Bytes in the files of `dir`.
local function size_of(dir)
  local sum, scan = 0, uv.fs_scandir(dir)
  while scan do
    local name = uv.fs_scandir_next(scan)
    if not name then break end
    local found = uv.fs_stat(dir .. "/" .. name)
    if found and found.type == "file" then sum = sum + found.size end
  end
  return sum
end

--- Pulls the manifest `digest` of `ref` to the directory `dir`; `bar` is set to the bytes that have arrived. Waits.
function M.pull(ref, digest, dir, bar, options)
  local words = { "copy", "--remove-signatures" }
  if ref.plain then words[#words + 1] = "--src-tls-verify=false" end
  words[#words + 1] = ("docker://%s@%s"):format(ref.repository, digest)
  words[#words + 1] = "dir:" .. dir
  run(words, ref, options, function()
    local size = size_of(dir)
    bar:set(size)
    return size
  end)
end

local UNPACK = { gzip = { "gz", "gzip", "-dkf" }, xz = { "xz", "xz", "-dkf" }, zstd = { "zst", "zstd", "-dkfq" } }

-- Gives the archive the name `tmp`/archive, since skopeo takes a colon for the end of a file's name; unpacks it where the
-- whole is compressed, which skopeo does not.
local function place(ref, tmp)
  local how = UNPACK[blobs.compression(ref.path)]
  local name = tmp .. "/archive" .. (how and "." .. how[1] or "")
  errors.check_uv("link", name, uv.fs_symlink(ref.path, name))
  if not how then return end
  local result = process.run { how[2], how[3], "--", name, check = false, op = "unpack archive" }
  if result.status ~= 0 then store.failed(ref.text, tmp, (result.stderr:gsub("%s+", " "):sub(-300))) end
end

--- Takes the image out of an archive to the directory `dir`, which lies in `options.tmp`. Waits.
function M.extract(ref, dir, options)
  place(ref, options.tmp)
  local why = ""
  for _, transport in ipairs(ref.transport and { ref.transport } or { "docker-archive", "oci-archive" }) do
    local feed, last = reader { told_to_wait = function() end }
    local source = ("%s:%s/archive%s"):format(transport, options.tmp, ref.inner and ":" .. ref.inner or "")
    local list = command({ "copy", "--remove-signatures", source, "dir:" .. dir }, options.tmp)
    list.on_stderr, list.check, list.op = feed, false, "read archive"
    if process.run(list).status == 0 then return end
    why = last():gsub("%S*" .. options.tmp:gsub("%p", "%%%0") .. "/", "")
    -- Only what has no manifest.json can be the other kind.
    if not why:find("manifest.json: file does not exist", 1, true) then break end
  end
  explain(why ~= "" and why or "skopeo ended without a word", ARCHIVE, ref.text, "", { op = "read image", subject = ref.text,
    name = "EPROTO", status = status.data, message = "it is corrupt, or no image archive",
    hint = "podman save and docker save make such files" })
end

return M
