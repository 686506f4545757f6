-- SPDX-License-Identifier: Apache-2.0
--- Stores: an image as a squashfs that Podman takes as an additional image store, made without mounting anything.
--
-- The layers are unpacked over each other, whiteouts applied, to what is one layer of an overlay store; beside it lie the
-- records that containers/storage keeps of a layer and an image. The image keeps its own id, manifest and config. One
-- layer instead of many is the same to a container, needs no device nodes for whiteouts, and mounts faster.
local uv = require "luv"
local core = require "fcvm.core"
local blobs = require "fcvm.image.blobs"
local base64 = require "fcvm.base64"
local errors = require "fcvm.errors"
local json = require "fcvm.json"
local manifest = require "fcvm.image.manifest"
local paths = require "fcvm.paths"
local process = require "fcvm.process"

local M = {}

-- Measured with 397 MiB of Debian on two processors: zstd 1 wrote in 1.7 s to 138 MiB and was read in 3.1 s; lz4 3.9 s,
-- 182 MiB and 2.2 s; gzip 1 5.5 s, 142 MiB and 5.5 s; zstd 9 6.4 s, 124 MiB. docs/images.md says more.
local COMPRESSION = { "-comp", "zstd", "-Xcompression-level", "1" }
local EPOCH = "1970-01-01T00:00:00Z"

local function write(path, text, mode)
  errors.check(core.disk.write(path, text, mode or 420))
end

local function link(target, path)
  errors.check_uv("link", path, uv.fs_symlink(target, path))
end

--- A size for people. --
function M.size_text(bytes)
  if bytes < 1 << 20 then return ("%.1f KiB"):format(bytes / 1024) end
  if bytes < 10 << 30 then return ("%.1f MiB"):format(bytes / (1 << 20)) end
  return ("%.1f GiB"):format(bytes / (1 << 30))
end

--- Bytes that are free for us where `path` is.
function M.free(path)
  local found = errors.check_uv("look at", path, uv.fs_statfs(path))
  return found.bavail * found.bsize
end

--- Raises ENOSPC (73) where fewer than `needed` bytes are free at `path`.
function M.need(subject, path, needed)
  local free = M.free(path)
  if needed <= free then return end
  errors.raise { op = "store image", subject = subject, name = "ENOSPC", status = errors.status.cannot_create,
    message = ("it needs at least %s, and %s has %s free"):format(M.size_text(needed), path, M.size_text(free)),
    hint = "free some, or use another disk by --data-dir or FCVM_DATA_DIR" }
end

--- Raises what a failed program of ours means: a full disk (73), else the image is corrupt (65), with `text` as reason.
function M.failed(subject, dir, text)
  if text:lower():find("no space left", 1, true) or text:lower():find("disk quota", 1, true) then
    errors.raise { op = "store image", subject = subject, name = "ENOSPC", status = errors.status.cannot_create,
      message = ("the disk is full: %s has %s free now"):format(dir, M.size_text(M.free(dir))),
      hint = "free some, or use another disk by --data-dir or FCVM_DATA_DIR" }
  end
  manifest.corrupt(subject, "it cannot be unpacked: " .. text, "fetch it again")
end

-- An OCI layout of this one image whose blobs are links: umoci then reads exactly the manifest that was chosen, whatever
-- else the source holds and whatever it calls its media types.
local function layout(image, dir)
  paths.ensure(dir .. "/blobs/sha256")
  local function blob(hex) return ("%s/blobs/sha256/%s"):format(dir, hex) end
  local document = { schemaVersion = 2, mediaType = manifest.types.manifest, layers = json.array(),
    config = { mediaType = manifest.types.config, digest = image.manifest.config.digest, size = image.manifest.config.size } }
  link(image.path_of(image.manifest.config.hex), blob(image.manifest.config.hex))
  for i, layer in ipairs(image.manifest.layers) do
    local digest, size, kind = layer.digest, layer.size, manifest.types.layer
    local compression = blobs.compression(image.path_of(layer.hex))
    if compression == "zstd" then
      -- umoci does not know zstd; what is unpacked is checked against its own digest instead.
      digest = image.diffs[i]
      local file = blob(manifest.hex(digest))
      if not uv.fs_stat(file) then
        local got = process.run { "zstd", "-d", "-q", "-o", file, "--", image.path_of(layer.hex), check = false }
        if got.status ~= 0 then M.failed(image.subject, dir, got.stderr:gsub("%s+", " "):sub(-300)) end
      end
      size = uv.fs_stat(file).size
    else
      if compression == "gzip" then kind = kind .. "+gzip" end
      if not uv.fs_lstat(blob(layer.hex)) then link(image.path_of(layer.hex), blob(layer.hex)) end
    end
    document.layers[i] = { mediaType = kind, digest = digest, size = size }
  end
  local text = json.encode(document)
  local digest = blobs.digest(text)
  write(blob(manifest.hex(digest)), text)
  write(dir .. "/oci-layout", json.encode { imageLayoutVersion = "1.0.0" })
  write(dir .. "/index.json", json.encode { schemaVersion = 2, manifests = json.array { { size = #text, digest = digest,
    mediaType = manifest.types.manifest, annotations = { ["org.opencontainers.image.ref.name"] = "image" } } } })
end

local function unpack(image, tmp, target)
  layout(image, tmp .. "/layout")
  local command = { "umoci", "raw", "unpack", "--image", "layout:image", check = false, cwd = tmp, op = "unpack image",
    env = { TMPDIR = tmp } }
  if uv.getuid() ~= 0 then command[#command + 1] = "--rootless" end
  command[#command + 1] = target
  local result = process.run(command)
  if result.status == 0 then return end
  local said = result.stderr .. result.stdout
  local why = said:match "⨯ ([^\n]*)" or said:match "([^\n]*)\n*$"
  -- umoci stops at the first thing that makes no sense; a layer with a wrong digest is the usual cause, so it is looked for.
  if result.status and not said:lower():find("no space left", 1, true) then blobs.verify(image) end
  M.failed(image.subject, tmp, (why:gsub("%s+$", "")))
end

-- containers/storage's records of the one layer and the image. Lock files must be there, since nobody can make them later.
local function records(image, root, id, layer)
  local own = ("%s/overlay/%s"):format(root, layer)
  -- Overlay mounts name layers by short links, since their option string has a limit.
  local short = ("FCVM" .. layer:upper()):sub(1, 26)
  for _, name in ipairs { "work", "merged", "empty" } do paths.ensure(own .. "/" .. name) end
  write(own .. "/link", short)
  paths.ensure(root .. "/overlay/l", 493)
  link(("../%s/diff"):format(layer), root .. "/overlay/l/" .. short)
  local top = image.diffs[#image.diffs] or image.manifest.config.digest
  paths.ensure(root .. "/overlay-layers")
  write(root .. "/overlay-layers/layers.json", json.encode(json.array { { id = layer, created = EPOCH, ["diff-digest"] = top,
    ["diff-size"] = 0 } }))
  write(root .. "/overlay-layers/layers.lock", "")
  local data = { manifest = { image.manifest_text, image.digest },
    ["manifest-" .. image.digest] = { image.manifest_text, image.digest },
    [image.manifest.config.digest] = { image.config_text, image.manifest.config.digest } }
  local names, sizes, digests = json.array(), {}, {}
  paths.ensure(root .. "/overlay-images/" .. id)
  for name, item in pairs(data) do
    names[#names + 1] = name
    sizes[name], digests[name] = #item[1], item[2]
    local file = name:match "^[a-z0-9.]+$" and name or "=" .. base64.encode(name)
    write(("%s/overlay-images/%s/%s"):format(root, id, file), item[1])
  end
  table.sort(names)
  write(root .. "/overlay-images/images.json", json.encode(json.array { { id = id, digest = image.digest, layer = layer,
    names = image.name and json.array { image.name } or nil, metadata = "{}", created = EPOCH, ["big-data-names"] = names,
    ["big-data-sizes"] = sizes, ["big-data-digests"] = digests } }))
  write(root .. "/overlay-images/images.lock", "")
end

-- The store's own files get the time 0, so that equal images make equal stores; the image's keep theirs.
local function settle(dir, inside)
  local scan = uv.fs_scandir(dir)
  while scan do
    local name, kind = uv.fs_scandir_next(scan)
    if not name then break end
    local path = dir .. "/" .. name
    if kind == "directory" and not (inside and name == "diff") then settle(path, dir:match "/overlay$" ~= nil) end
    if name ~= "diff" then uv.fs_lutime(path, 0, 0) end
  end
  uv.fs_utime(dir, 0, 0)
end

--- Makes `tmp`/out/store.squashfs of a loaded image in the directory `tmp`, with `image.name` as its name in the store.
-- `say` is told each step. Returns the size. Raises EPROTO (65) for a corrupt image and ENOSPC (73). Waits.
function M.build(image, tmp, say)
  M.need(image.subject, tmp, blobs.unpacked(image))
  local id, root = image.manifest.config.hex, tmp .. "/root"
  -- The layer's id differs from the image's, so that records of both cannot be taken for each other.
  local layer = manifest.hex(image.digest)
  paths.ensure(("%s/overlay/%s"):format(root, layer))
  say "unpacking"
  unpack(image, tmp, ("root/overlay/%s/diff"):format(layer))
  records(image, root, id, layer)
  settle(root)
  paths.ensure(tmp .. "/out")
  say "packing"
  local command = { "mksquashfs", "root", "out/store.squashfs", "-noappend", "-no-progress", "-quiet", "-mkfs-time", "0",
    check = false, cwd = tmp, op = "pack image", env = { SOURCE_DATE_EPOCH = false } }
  for _, word in ipairs(COMPRESSION) do command[#command + 1] = word end
  if uv.getuid() ~= 0 then command[#command + 1] = "-all-root" end
  local result = process.run(command)
  local file = tmp .. "/out/store.squashfs"
  if result.status ~= 0 then M.failed(image.subject, tmp, (result.stderr .. result.stdout):gsub("%s+", " "):sub(-300)) end
  errors.check_uv("allow reading of", file, uv.fs_chmod(file, 292))
  return uv.fs_stat(file).size
end

return M
