-- SPDX-License-Identifier: Apache-2.0
--- Manifests, indexes and configs of OCI and Docker images: foreign JSON, looked at field by field before it is used.
local errors = require "fcvm.errors"
local json = require "fcvm.json"

local M = { MAX = 4 << 20 }

local LAYERS_MAX, SIZE_MAX = 512, 1 << 46
local OCI = "application/vnd.oci.image."
local DOCKER = "application/vnd.docker."

M.types = { manifest = OCI .. "manifest.v1+json", config = OCI .. "config.v1+json", layer = OCI .. "layer.v1.tar" }

local is_index = { [OCI .. "index.v1+json"] = true, [DOCKER .. "distribution.manifest.list.v2+json"] = true }

-- What the media types of layers begin with; what follows says how they are compressed.
local LAYER_TYPES = { OCI .. "layer.v1.tar", OCI .. "layer.nondistributable.v1.tar", DOCKER .. "image.rootfs.diff.tar",
  DOCKER .. "image.rootfs.foreign.diff.tar" }

local function is_layer(kind)
  for _, start in ipairs(LAYER_TYPES) do
    if type(kind) == "string" and kind:sub(1, #start) == start then return true end
  end
  return false
end

--- Raises that the image `subject` makes no sense (65).
function M.corrupt(subject, message, hint)
  errors.raise { op = "read image", subject = subject, name = "EPROTO", status = errors.status.data, message = message,
    hint = hint }
end

--- The hexadecimal part of a digest, or nil where it is none: what comes from here is safe as a file's name.
function M.hex(digest)
  local hex = type(digest) == "string" and digest:match "^sha256:(%x+)$"
  return hex and #hex == 64 and not hex:match "%u" and hex or nil
end

-- Is this size one that a blob can have?
local function is_size(size) return math.type(size) == "integer" and size >= 0 and size <= SIZE_MAX end

local function descriptor(subject, value, what)
  if type(value) ~= "table" or not M.hex(value.digest) then M.corrupt(subject, ("its %s has no valid digest"):format(what)) end
  if not is_size(value.size) then M.corrupt(subject, ("its %s has no valid size"):format(what)) end
  return value
end

--- Decodes a manifest, index or config; raises where it is no object or too large.
function M.decode(subject, text, what)
  local value, err = json.decode(text, what, M.MAX)
  if type(value) ~= "table" then
    M.corrupt(subject, ("its %s cannot be read: %s"):format(what, err and err.message or "it is no object"))
  end
  return value
end

-- A list: its keys are 1 to their number, so that an object is none, and neither is what a null left a hole in.
local function list_of(subject, value, what, max)
  if type(value) ~= "table" then M.corrupt(subject, ("its %s are no list"):format(what)) end
  local count = 0
  for _ in pairs(value) do count = count + 1 end
  if count > max then M.corrupt(subject, ("it has more than %d %s"):format(max, what)) end
  for i = 1, count do
    if value[i] == nil then M.corrupt(subject, ("its %s are no list"):format(what)) end
  end
  return value
end

--- Is this decoded document an index, or else a manifest?
function M.is_index(document)
  if type(document.mediaType) == "string" then return is_index[document.mediaType] or false end
  return document.manifests ~= nil and document.layers == nil
end

--- The entries of an index, each with a valid digest and size.
function M.entries(subject, index)
  local list = list_of(subject, index.manifests, "manifests", 4096)
  for _, entry in ipairs(list) do descriptor(subject, entry, "index's entry") end
  return list
end

--- Raises that the image is for other architectures (65) than `arch`.
function M.other_architecture(subject, has, arch)
  errors.raise { op = "open image", subject = subject, name = "EPROTO", status = errors.status.data,
    message = ("it is for %s, not for %s"):format(has, arch), hint = "look for a tag of it that is for " .. arch }
end

--- The entry of a list that is for linux and `arch`; entries that do not say what they are for count where none does.
function M.choose(subject, entries, arch)
  local has, unsaid = {}, nil
  for _, entry in ipairs(entries) do
    local platform = type(entry.platform) == "table" and entry.platform or nil
    if not platform then
      unsaid = unsaid or entry
    elseif platform.architecture == arch and platform.os == "linux" then
      return entry
    elseif type(platform.architecture) == "string" and platform.architecture ~= "unknown" then
      local name = platform.os == "linux" and platform.architecture or ("%s/%s"):format(platform.os, platform.architecture)
      if not has[name] then
        has[name] = true
        has[#has + 1] = name:sub(1, 40)
      end
    end
  end
  if unsaid then return unsaid end
  if #has == 0 then M.corrupt(subject, "its index is empty") end
  return M.other_architecture(subject, table.concat(has, ", ", 1, math.min(#has, 12)), arch)
end

--- Checks a decoded manifest. Returns {config=, layers={ {digest=, size=, hex=} }, size= of all blobs}.
function M.manifest(subject, document)
  if document.schemaVersion == 1 then
    M.corrupt(subject, "its manifest is of Docker's first format", "push it again by a current tool")
  end
  if document.schemaVersion ~= 2 then M.corrupt(subject, "its manifest has no schemaVersion 2") end
  local config = descriptor(subject, document.config, "config")
  local out = { config = { digest = config.digest, size = config.size, hex = M.hex(config.digest) }, layers = {},
    size = config.size }
  if config.size > M.MAX then M.corrupt(subject, "its config is larger than 4 MiB") end
  for i, layer in ipairs(list_of(subject, document.layers, "layers", LAYERS_MAX)) do
    descriptor(subject, layer, "layer " .. i)
    if not is_layer(layer.mediaType) then
      M.corrupt(subject, ("its layer %d is of type %s: it is no container image"):format(i, tostring(layer.mediaType):sub(1, 80)))
    end
    out.size = out.size + layer.size
    out.layers[i] = { digest = layer.digest, size = layer.size, hex = M.hex(layer.digest) }
  end
  return out
end

local function strings(subject, value, what)
  if value == nil then return nil end
  for i, word in ipairs(list_of(subject, value, what, 4096)) do
    if type(word) ~= "string" then M.corrupt(subject, ("its %s[%d] is no string"):format(what, i)) end
  end
  return #value > 0 and json.array(value) or nil
end

local function text(subject, value, what)
  if value == nil or value == "" then return nil end
  if type(value) ~= "string" then M.corrupt(subject, ("its %s is no string"):format(what)) end
  return value
end

--- Checks a decoded config for `arch`. Returns {Cmd=, Entrypoint=, Env=, User=, WorkingDir=, ExposedPorts=, StopSignal=}
-- (fields that the image does not have are nil) and the digests of its unpacked layers.
function M.config(subject, document, arch, layers)
  local system, machine = document.os or "linux", document.architecture or arch
  if system ~= "linux" or machine ~= arch then
    local name = system == "linux" and tostring(machine) or ("%s/%s"):format(tostring(system), tostring(machine))
    M.other_architecture(subject, name:sub(1, 60), arch)
  end
  local diffs = type(document.rootfs) == "table" and document.rootfs.diff_ids
  list_of(subject, diffs or {}, "rootfs.diff_ids", LAYERS_MAX)
  if layers and #(diffs or {}) ~= layers then
    M.corrupt(subject, ("its config names %d layers and its manifest %d"):format(#(diffs or {}), layers))
  end
  for i, digest in ipairs(diffs or {}) do
    if not M.hex(digest) then M.corrupt(subject, ("its rootfs.diff_ids[%d] is no digest"):format(i)) end
  end
  local from = type(document.config) == "table" and document.config or {}
  local ports
  if type(from.ExposedPorts) == "table" then
    ports = {}
    for port in pairs(from.ExposedPorts) do
      if type(port) == "string" and port:match "^%d+/?%l*$" then ports[#ports + 1] = port end
    end
    table.sort(ports)
  end
  return { Cmd = strings(subject, from.Cmd, "Cmd"), Entrypoint = strings(subject, from.Entrypoint, "Entrypoint"),
    Env = strings(subject, from.Env, "Env"), User = text(subject, from.User, "User"),
    WorkingDir = text(subject, from.WorkingDir, "WorkingDir"), StopSignal = text(subject, from.StopSignal, "StopSignal"),
    ExposedPorts = ports and #ports > 0 and json.array(ports) or nil }, diffs or {}
end

return M
