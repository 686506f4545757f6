-- SPDX-License-Identifier: Apache-2.0
--- What Firecracker boots, out of what distributions ship: an ELF vmlinux on x86_64, an Image on aarch64.
--
-- A bzImage says in its setup header where its compressed payload lies (Documentation/arch/x86/boot.rst: payload_offset,
-- payload_length); an EFI zboot image likewise ("zimg" at byte 4). The payload is unpacked by the tool of its format.
local errors = require "fcvm.errors"
local workshop = require "fcvm.setup.workshop"

local M = {}

local unpackers = {
  { "\x02\x21\x4c\x18", { "lz4", "-dc" } }, -- LZ4's legacy frame
  { "\x1f\x8b", { "gzip", "-dc" } },
  { "\xfd7zXZ\0", { "xz", "-dc" } },
  { "\x28\xb5\x2f\xfd", { "zstd", "-dc" } },
}

local HEADER = 0x260 -- bytes that hold all of a setup header that is looked at
local PROBLEM = "neither a kernel that Firecracker boots nor one that holds it"

local function refuse(what, message)
  errors.raise { op = "read kernel", subject = what, name = "EINVAL", message = message, status = errors.status.config,
    hint = "a vmlinux, a vmlinuz or a kernel package for this architecture" }
end

--- The payload of an image with a header that names it: {data=, argv=, size= (unpacked, or nil)}, or nil where `image`
-- has no such header. Raises where the header lies.
function M.payload(image, what)
  local offset, length, size
  if #image < HEADER then return nil end
  if image:sub(0x203, 0x206) == "HdrS" then
    local version = ("<I2"):unpack(image, 0x207)
    if version < 0x208 then refuse(what, "its boot protocol is too old") end
    local sectors = image:byte(0x1f2)
    offset, length = ("<I4I4"):unpack(image, 0x249)
    -- No sectors mean four, as ever.
    offset = offset + ((sectors == 0 and 4 or sectors) + 1) * 512
    if length > 4 and offset + length <= #image then
      size = ("<I4"):unpack(image, offset + length - 3)
    end
  elseif image:sub(1, 2) == "MZ" and image:sub(5, 8) == "zimg" then
    offset, length = ("<I4I4"):unpack(image, 9)
  else
    return nil
  end
  if length <= 4 or offset + length > #image then refuse(what, "its payload lies outside of it: the file was cut short") end
  local data = image:sub(offset + 1, offset + length)
  for _, unpacker in ipairs(unpackers) do
    if data:sub(1, #unpacker[1]) == unpacker[1] then
      -- The last four bytes are the unpacked size, which formats that keep none of their own would stumble over.
      if size and unpacker[2][1] == "lz4" then data = data:sub(1, -5) end
      return { data = data, argv = unpacker[2], size = size }
    end
  end
  refuse(what, "its payload is compressed in a way that fcvm does not know")
end

--- Is `image` (its first bytes suffice) what Firecracker boots on `arch` ("x86_64", "aarch64")?
function M.boots(image, arch)
  if arch == "x86_64" then
    -- ELF, 64-bit, little-endian, machine 62.
    return image:sub(1, 6) == "\x7fELF\2\1" and ("<I2"):unpack(image, 19) == 62
  end
  return image:sub(57, 60) == "ARM\x64"
end

--- Writes to `path` what Firecracker boots out of `image` (the whole file's bytes), which errors call `what`.
function M.extract(image, path, arch, what)
  if #image < HEADER then refuse(what, PROBLEM) end
  local file = assert(io.open(path, "wb"))
  local ok, err = pcall(function()
    if M.boots(image, arch) then
      assert(file:write(image))
      return
    end
    local payload = M.payload(image, what)
    if not payload then refuse(what, PROBLEM) end
    local written, first = 0, ""
    workshop.run { op = "unpack kernel", stdin = payload.data, payload.argv[1], payload.argv[2], on_stdout = function(chunk)
      assert(file:write(chunk))
      written = written + #chunk
      if #first < 64 then first = first .. chunk:sub(1, 64) end
    end }
    if payload.size and payload.size ~= written then
      refuse(what, ("it unpacks to %d bytes, not the %d that it names"):format(written, payload.size))
    end
    if not M.boots(first, arch) then refuse(what, "what it holds is no kernel for " .. arch) end
  end)
  local closed = file:close()
  if not ok then error(err, 0) end
  assert(closed, "the kernel could not be written")
end

--- The release ("6.1.0-40-cloud-amd64") that a kernel's banner names, or nil.
function M.release(path)
  local file <close> = assert(io.open(path, "rb"))
  local before = ""
  while true do
    local chunk = file:read(1 << 20)
    if not chunk then return nil end
    local text = before .. chunk
    local release = text:match "Linux version (%d[%w%.%-%+_~]*) %("
    if release then return release end
    before = chunk:sub(-200)
  end
end

return M
