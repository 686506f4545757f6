-- SPDX-License-Identifier: Apache-2.0
--- Blobs: an image's manifest, config and layers as files that are named by their digests, in an OCI layout or in the
-- directory that skopeo fills.
local uv = require "luv"
local core = require "fcvm.core"
local errors = require "fcvm.errors"
local manifest = require "fcvm.image.manifest"
local process = require "fcvm.process"

local M = {}

--- Reads the regular file `path`, at most 4 MiB, as the `what` of image `subject`; raises where it is not there.
function M.read(subject, path, what)
  local found = uv.fs_stat(path)
  if not found then manifest.corrupt(subject, ("its %s is missing: there is no %s"):format(what, path)) end
  if found.type ~= "file" then manifest.corrupt(subject, ("its %s is no file but a %s"):format(what, found.type)) end
  if found.size > manifest.MAX then manifest.corrupt(subject, ("its %s is larger than 4 MiB"):format(what)) end
  return (errors.check(core.disk.read(path, manifest.MAX)))
end

--- Digests of files, in their order. Waits.
function M.digests(files)
  local command = { "sha256sum", "--zero", "--", op = "hash" }
  for _, file in ipairs(files) do command[#command + 1] = file end
  local digests = {}
  for hex in (process.run(command).stdout):gmatch "(%x+) [ *][^%z]*%z" do digests[#digests + 1] = "sha256:" .. hex end
  return digests
end

--- The digest of `text`. Waits.
function M.digest(text)
  return "sha256:" .. process.run({ "sha256sum", stdin = text, op = "hash" }).stdout:match "^%x+"
end

local function same(subject, what, wanted, got)
  if wanted ~= got then
    manifest.corrupt(subject, ("its %s has the digest %s, not %s"):format(what, got, wanted), "fetch it again")
  end
end

--- The image whose manifest is the blob `digest`: `path_of(hex)` gives the file of a blob. Manifest and config are read
-- and their digests checked, and that each layer is there with its whole size. Returns {digest=, manifest=, config=,
-- diffs=, manifest_text=, config_text=, path_of=, subject=}. Waits.
function M.load(subject, digest, path_of, arch)
  local file = path_of(manifest.hex(digest))
  local text = M.read(subject, file, "manifest")
  same(subject, "manifest", digest, M.digests({ file })[1])
  local parsed = manifest.manifest(subject, manifest.decode(subject, text, "manifest"))
  file = path_of(parsed.config.hex)
  local config_text = M.read(subject, file, "config")
  same(subject, "config", parsed.config.digest, M.digests({ file })[1])
  local config, diffs = manifest.config(subject, manifest.decode(subject, config_text, "config"), arch, #parsed.layers)
  for i, layer in ipairs(parsed.layers) do
    local found = uv.fs_stat(path_of(layer.hex))
    if not found or found.type ~= "file" then
      manifest.corrupt(subject, ("its layer %d (%s) is missing"):format(i, layer.digest))
    end
    if found.size ~= layer.size then
      manifest.corrupt(subject, ("its layer %d (%s) has %d bytes, not %d"):format(i, layer.digest, found.size, layer.size),
        "fetch it again")
    end
  end
  return { digest = digest, manifest = parsed, config = config, diffs = diffs, manifest_text = text, config_text = config_text,
    path_of = path_of, subject = subject }
end

--- Raises for the first layer whose content is not what its digest says; returns where all are sound. Reads them all.
function M.verify(image)
  for i, layer in ipairs(image.manifest.layers) do
    same(image.subject, "layer " .. i, layer.digest, M.digests({ image.path_of(layer.hex) })[1])
  end
end

local MAGIC = { ["\x1f\x8b"] = "gzip", ["\x28\xb5\x2f\xfd"] = "zstd", ["\xfd7zXZ"] = "xz" }

--- How the file `path` is compressed: "gzip", "zstd", "xz" or "none". Its content says it; media types are at times wrong.
function M.compression(path)
  local file = io.open(path, "rb")
  local head = file and file:read(6) or ""
  if file then file:close() end
  return MAGIC[head:sub(1, 2)] or MAGIC[head:sub(1, 4)] or MAGIC[head:sub(1, 5)] or "none"
end

-- What gzip says at the end of a file that its content's size is, modulo 4 GiB: enough for a lower bound.
local function gzip_size(path)
  local file = io.open(path, "rb")
  if not file then return 0 end
  local size = file:seek "end" >= 18 and file:seek("end", -4) and file:read(4)
  file:close()
  return size and #size == 4 and (string.unpack("<I4", size)) or 0
end

--- How many bytes the layers take unpacked, at least.
function M.unpacked(image)
  local sum = 0
  for _, layer in ipairs(image.manifest.layers) do
    local size, path = layer.size, image.path_of(layer.hex)
    -- gzip packs no better than 1032 to 1, so a larger claim is none.
    if M.compression(path) == "gzip" then size = math.max(size, math.min(gzip_size(path), size * 1032)) end
    sum = sum + size
  end
  return sum
end

--- Chooses a manifest for `arch` in the OCI layout at `path`: the one that `tag` names, or the only one, or "latest".
-- Returns its digest and the function that gives blobs' files. Reads small JSON files only.
function M.layout(subject, path, tag, arch)
  local function path_of(hex) return ("%s/blobs/sha256/%s"):format(path, hex) end
  if not uv.fs_stat(path .. "/index.json") then
    manifest.corrupt(subject, "it is no OCI layout: it has no index.json", "umoci and skopeo make such directories")
  end
  local index = manifest.decode(subject, M.read(subject, path .. "/index.json", "index.json"), "index.json")
  local entries = manifest.entries(subject, index)
  if #entries == 0 then manifest.corrupt(subject, "its index.json names no image") end
  local names, by_name = {}, {}
  for _, entry in ipairs(entries) do
    local notes = type(entry.annotations) == "table" and entry.annotations or {}
    local name = notes["org.opencontainers.image.ref.name"]
    name = type(name) == "string" and name or ""
    if not by_name[name] then
      by_name[name] = {}
      if name ~= "" then names[#names + 1] = name end
    end
    table.insert(by_name[name], entry)
  end
  local wanted = tag and by_name[tag] or (not tag and (#names <= 1 and entries or by_name.latest)) or nil
  if not wanted then
    errors.raise { op = "open image", subject = subject, name = "ENOENT", status = errors.status.missing_input,
      message = tag and ("it has no image '%s'"):format(tag) or ("it has %d images and none is 'latest'"):format(#names),
      hint = "it has: " .. (#names > 0 and table.concat(names, ", ", 1, math.min(#names, 12)) or "one without a name") }
  end
  local entry = manifest.choose(subject, wanted, arch)
  for _ = 1, 3 do
    if not manifest.is_index(entry) then return entry.digest, path_of end
    local text = M.read(subject, path_of(manifest.hex(entry.digest)), "index")
    entry = manifest.choose(subject, manifest.entries(subject, manifest.decode(subject, text, "index")), arch)
  end
  return manifest.corrupt(subject, "its indexes are nested too deeply")
end

return M
