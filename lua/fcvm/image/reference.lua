-- SPDX-License-Identifier: Apache-2.0
--- References: what a user writes for an image, taken apart as Docker and skopeo do.
local uv = require "luv"
local errors = require "fcvm.errors"

local M = {}

local HINT = "a registry reference (nginx:alpine), oci:DIRECTORY[:TAG], docker-archive:FILE, or a path to either"

local function bad(text, message, hint)
  errors.raise { op = "read image reference", subject = text, name = "EINVAL", status = errors.status.usage,
    message = message, hint = hint or HINT }
end

local function absolute(path) return path:sub(1, 1) == "/" and path or uv.cwd() .. "/" .. path end

local function is(path, kind)
  local found = uv.fs_stat(path)
  return found ~= nil and found.type == kind
end

local function missing(path, what)
  errors.raise { op = "open image", subject = path, name = "ENOENT", status = errors.status.missing_input,
    message = ("there is no such %s"):format(what), hint = "registry references do not start with / or ." }
end

-- The part of a local image's name that is made of the file's.
local function base_name(path)
  local base = (path:match "([^/]+)/*$" or "image"):gsub("%.tar%.?%w*$", "")
  base = base:lower():gsub("[^a-z0-9]+", "-"):gsub("^%-+", ""):gsub("%-+$", "")
  return base ~= "" and base:sub(1, 100) or "image"
end

local function is_tag(text) return #text <= 128 and text:match "^[%w_][%w._-]*$" ~= nil end

local function layout(text, path, tag)
  if not is(path, "directory") then missing(path, "directory") end
  if tag and (tag == "" or #tag > 255 or tag:match "[%c]") then bad(text, "its tag is no tag") end
  local suffix = tag and is_tag(tag) and tag or "latest"
  return { kind = "layout", text = text, path = absolute(path), tag = tag,
    name = ("localhost/%s:%s"):format(base_name(path), suffix) }
end

-- One component of a repository's name: lower case, digits, and between them one . or _, two __, or any number of -.
local function is_component(text)
  if not text:match "^[a-z0-9]" or not text:match "[a-z0-9]$" or text:match "[^a-z0-9._-]" then return false end
  for run in text:gmatch "[._-]+" do
    if not (run == "." or run == "_" or run == "__" or run:match "^%-+$") then return false end
  end
  return true
end

local function is_domain(text)
  local host, port = text:match "^([^:]+):?(%d*)$"
  if not host or (text:find(":", 1, true) and (port == "" or tonumber(port) > 65535 or tonumber(port) < 1)) then return false end
  for label in (host .. "."):gmatch "([^.]*)%." do
    if not label:match "^%w[%w-]*$" or label:match "%-$" then return false end
  end
  return #host <= 253
end

local function is_loopback(domain)
  local host = domain:match "^[^:]+"
  return host == "localhost" or host:match "^127%.%d+%.%d+%.%d+$" ~= nil
end

local function registry(text, rest)
  rest = rest or text
  if rest == "" or rest:find "[%c%s]" then bad(text, "it is empty, or has blanks or control characters in it") end
  if #rest > 600 then bad(text:sub(1, 80) .. "…", "it is too long") end
  local digest
  if rest:find("@", 1, true) then
    rest, digest = rest:match "^([^@]*)@(.*)$"
    if not digest:match "^sha256:%x+$" or #digest ~= 71 or digest:match "%u" then
      bad(text, "its digest is none", "@sha256: and 64 hexadecimal digits in lower case")
    end
  end
  local path, tag = rest:match "^(.*):([^/:]*)$"
  if not path then path = rest end
  if tag and not is_tag(tag) then bad(text, "its tag is none", "letters, digits, _ . and -, at most 128") end
  local first, others = path:match "^([^/]*)/(.*)$"
  local domain = "docker.io"
  if first and (first:find "[.:]" or first == "localhost" or first:match "%u") then
    domain, path = first, others
    if not is_domain(domain) then bad(text, ("'%s' is no registry"):format(domain)) end
    if domain == "index.docker.io" then domain = "docker.io" end
  end
  if domain == "docker.io" and not path:find("/", 1, true) then path = "library/" .. path end
  for component in (path .. "/"):gmatch "([^/]*)/" do
    if not is_component(component) then
      bad(text, component:match "%u" and ("'%s' has capitals, which no repository has"):format(component)
        or ("'%s' is no part of a repository's name"):format(component))
    end
  end
  if #domain + #path > 254 then bad(text:sub(1, 80) .. "…", "its name is longer than 255") end
  if not digest then tag = tag or "latest" end
  local repository = domain .. "/" .. path
  return { kind = "registry", text = text, domain = domain, repository = repository, tag = not digest and tag or nil,
    digest = digest, plain = is_loopback(domain), name = not digest and repository .. ":" .. tag or nil,
    canonical = digest and repository .. "@" .. digest or repository .. ":" .. tag }
end

local function archive(text, transport, path, inner)
  if not is(path, "file") then missing(path, "file") end
  if inner and (inner == "" or #inner > 512 or not inner:match "^[%w@][%w._:/@-]*$") then
    bad(text, "what follows the file is no reference in it")
  end
  local ok, named = pcall(registry, inner or "")
  return { kind = "archive", text = text, transport = transport, path = absolute(path), inner = inner,
    name = ok and named.name or ("localhost/%s:latest"):format(base_name(path)) }
end

-- PATH[:TAG]: the whole is a path where there is one, else what follows the last colon is a tag.
local function oci(text, rest)
  if rest == "" then bad(text, "it names no directory") end
  if is(rest, "directory") then return layout(text, rest) end
  local path, tag = rest:match "^(.+):([^/:]*)$"
  if path then return layout(text, path, tag) end
  return layout(text, rest)
end

-- FILE[:REFERENCE], where the reference has colons of its own and a file's name may have too.
local function archived(text, transport, rest)
  if rest == "" then bad(text, "it names no file") end
  if is(rest, "file") then return archive(text, transport, rest) end
  local at = 1
  while true do
    at = rest:find(":", at + 1, true)
    if not at then break end
    local path = rest:sub(1, at - 1)
    if is(path, "file") then return archive(text, transport, path, rest:sub(at + 1)) end
  end
  return archive(text, transport, rest:match "^[^:]+" or rest)
end

--- Takes a reference apart. Raises EINVAL (64) for what is none, ENOENT (66) for a path where nothing is. Gives one of
-- {kind="layout", path=, tag=|nil}, {kind="archive", transport=|nil, path=, inner=|nil} and
-- {kind="registry", domain=, repository=, tag=|nil, digest=|nil, canonical=, plain=}, each with `text` and `name`, the
-- name that the image gets in its store (nil where only a digest is known).
function M.parse(text)
  if type(text) ~= "string" or text == "" then bad(tostring(text or ""), "it is empty") end
  if #text > 4096 then bad(text:sub(1, 80) .. "…", "it is too long") end
  local scheme, rest = text:match "^([%a-]+):(.*)$"
  if scheme == "oci" then return oci(text, rest) end
  if scheme == "docker-archive" or scheme == "oci-archive" then return archived(text, scheme, rest) end
  if scheme == "docker" and rest:sub(1, 2) == "//" then return registry(text, rest:sub(3)) end
  if scheme and rest:sub(1, 2) == "//" or scheme == "dir" or scheme == "docker-daemon" or scheme == "containers-storage" then
    bad(text, ("fcvm does not read images from '%s:'"):format(scheme))
  end
  if text:match "^%.?%.?/" then
    if is(text, "directory") then return layout(text, text) end
    if is(text, "file") then return archive(text, nil, text) end
    missing(text, "file or directory")
  end
  -- A relative path without ./ in front, where what lies there can only be meant.
  if is(text .. "/oci-layout", "file") then return layout(text, text) end
  if text:match "%.tar[%.%w]*$" and is(text, "file") then return archive(text, nil, text) end
  return registry(text)
end

return M
