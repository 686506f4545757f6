-- SPDX-License-Identifier: Apache-2.0
--- OCI layouts made to order, for tests of images. Call in a task.
local uv = require "luv"
local core = require "fcvm.core"
local errors = require "fcvm.errors"
local json = require "fcvm.json"
local paths = require "fcvm.paths"
local process = require "fcvm.process"

local M = {}

--- A fresh directory; `M.remove` takes it away.
function M.directory()
  return assert(uv.fs_mkdtemp("/tmp/fcvm-images-XXXXXX"))
end

function M.remove(dir) process.run { "rm", "-rf", "--", dir } end

function M.write(path, text)
  paths.ensure(path:match "^(.*)/[^/]+$", 493)
  errors.check(core.disk.write(path, text, 420))
end

--- Puts `text` among the layout's blobs; returns its descriptor.
function M.blob(dir, text, kind)
  local digest = "sha256:" .. process.run({ "sha256sum", stdin = text }).stdout:match "^%x+"
  M.write(("%s/blobs/sha256/%s"):format(dir, digest:sub(8)), text)
  return { mediaType = kind, digest = digest, size = #text }
end

-- A layer of files {path = content}: its tar, and the same compressed.
local function layer(files, compression)
  local dir = M.directory()
  for path, content in pairs(files) do M.write(dir .. "/" .. path, content) end
  local tar = process.run({ "tar", "--create", "--sort=name", "--mtime=@1000000000", "--owner=0", "--group=0", "--numeric-owner",
    "-C", dir, ".", max_output = 1 << 28 }).stdout
  M.remove(dir)
  if compression == "none" then return tar, tar end
  local file = M.directory()
  M.write(file .. "/tar", tar)
  local packed = process.run({ compression, compression == "gzip" and "-nc" or "-qc", "--", file .. "/tar" }).stdout
  M.remove(file)
  return tar, packed
end

--- Adds an image to the layout's blobs; returns its manifest's descriptor. Options: layers (a list of {path = content}),
-- arch, os, config (of the config), compression ("gzip", "none", "zstd"), edit (a function that gets the manifest).
function M.image(dir, options)
  local compression = options.compression or "gzip"
  local diffs, layers = json.array(), json.array()
  for i, files in ipairs(options.layers or { { ["etc/motd"] = "hello\n" } }) do
    local tar, packed = layer(files, compression)
    diffs[i] = M.blob(dir, tar).digest
    uv.fs_unlink(("%s/blobs/sha256/%s"):format(dir, diffs[i]:sub(8)))
    local suffix = compression ~= "none" and "+" .. compression or ""
    layers[i] = M.blob(dir, packed, "application/vnd.oci.image.layer.v1.tar" .. suffix)
  end
  local config = { os = options.os or "linux", architecture = options.arch or "amd64", config = options.config or json.object(),
    rootfs = { type = "layers", diff_ids = diffs } }
  local manifest = { schemaVersion = 2, mediaType = "application/vnd.oci.image.manifest.v1+json", layers = layers,
    config = M.blob(dir, json.encode(config), "application/vnd.oci.image.config.v1+json") }
  if options.edit then options.edit(manifest) end
  local entry = M.blob(dir, json.encode(manifest), manifest.mediaType)
  if options.platform then entry.platform = { os = config.os, architecture = config.architecture } end
  return entry
end

--- Writes index.json with these entries {descriptor, tag = "latest"}.
function M.index(dir, entries)
  local list = json.array()
  for i, entry in ipairs(entries) do
    local item = entry[1]
    item.annotations = entry.tag and { ["org.opencontainers.image.ref.name"] = entry.tag } or nil
    list[i] = item
  end
  M.write(dir .. "/oci-layout", '{"imageLayoutVersion":"1.0.0"}')
  M.write(dir .. "/index.json", json.encode { schemaVersion = 2, manifests = list })
end

--- A layout of one image named latest in a new directory. Returns the directory and the manifest's descriptor.
function M.make(options)
  local dir = M.directory()
  local entry = M.image(dir, options or {})
  M.index(dir, { { entry, tag = options and options.tag or "latest" } })
  return dir, entry
end

--- The path of a layout's largest blob, which is a layer.
function M.largest(dir)
  local best, most = nil, -1
  local scan = uv.fs_scandir(dir .. "/blobs/sha256")
  while true do
    local name = uv.fs_scandir_next(scan)
    if not name then return best end
    local path = ("%s/blobs/sha256/%s"):format(dir, name)
    local size = uv.fs_stat(path).size
    if size > most then best, most = path, size end
  end
end

return M
