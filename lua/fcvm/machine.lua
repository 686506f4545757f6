-- SPDX-License-Identifier: Apache-2.0
--- The one place of the Lua layer that knows processor architectures, and what a machine may be.
local uv = require "luv"
local errors = require "fcvm.errors"

local M = {}

local architectures = {
  -- reboot=k: a reset by the keyboard controller is how a guest tells Firecracker that it is done.
  x86_64 = { oci = "amd64", debian = "amd64", boot = "reboot=k 8250.nr_uarts=1 i8042.noaux i8042.nomux i8042.dumbkbd" },
  aarch64 = { oci = "arm64", debian = "arm64", boot = "keep_bootcon" },
}

--- This host's architecture: {name=, oci=, debian=, boot=}; raises where fcvm does not know it.
function M.arch()
  local name = uv.os_uname().machine
  local known = architectures[name]
  if not known then
    errors.raise { op = "start", subject = name, name = "ENOTSUP", message = "fcvm runs on x86_64 and aarch64" }
  end
  return { name = name, oci = known.oci, debian = known.debian, boot = known.boot }
end

local units = { [""] = 1, B = 1, K = 1 << 10, M = 1 << 20, G = 1 << 30, T = 1 << 40 }

--- Bytes of a size: a number, or "512M", "1.5G", "2GiB".
function M.size(value, what)
  local text = tostring(value)
  local number, unit = (#text <= 40 and text or ""):match "^(%d+%.?%d*)%s*([BKMGT]?)i?B?$"
  local bytes = number and math.floor((tonumber(number) + 0.0) * units[unit])
  if not bytes or bytes >= 1 << 52 then
    errors.raise { op = "read size of", subject = what or "memory", name = "EINVAL", message = ("'%s' is no size"):format(value),
      hint = "bytes, or a number with K, M, G: 512M" }
  end
  return math.tointeger(bytes)
end

local LEAST = 128 << 20

--- Checks a VM's memory (bytes, or a size) and processors against this host. Returns MiB and the number.
function M.shape(memory, cpus)
  local bytes, total = M.size(memory or "1G", "memory"), math.tointeger(uv.get_total_memory())
  if bytes < LEAST or bytes > total then
    errors.raise { op = "give memory", subject = tostring(memory), name = "EINVAL",
      message = bytes < LEAST and "a guest needs 128 MiB or more"
        or ("this host has %d MiB"):format(total >> 20), hint = "--mem 512M" }
  end
  local online = #uv.cpu_info()
  cpus = cpus or math.min(2, online)
  if cpus < 1 or cpus > 32 then
    errors.raise { op = "give processors", subject = tostring(cpus), name = "EINVAL",
      message = "Firecracker gives a guest 1 to 32 of them" }
  end
  return bytes >> 20, cpus
end

return M
