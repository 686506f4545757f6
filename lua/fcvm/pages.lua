-- SPDX-License-Identifier: Apache-2.0
--- The page server alone, for any Firecracker: what `fcvm uffd serve` is made of. The servers of snapshots are
-- lua/fcvm/serve.lua.
local uv = require "luv"
local core = require "fcvm.core"
local errors = require "fcvm.errors"
local log = require "fcvm.log"
local task = require "fcvm.task"

local M = {}

--- Waits for a job of core.uffd in the current task; returns its result or raises.
function M.finish(job, err, what)
  if not job then error(errors.new(err), 0) end
  local ok, result = pcall(function()
    task.readable(job:fileno(), nil, what)
    return errors.check(job:result())
  end)
  job:close()
  if not ok then error(result, 0) end
  return result
end

local function say_client(client)
  if client.error then
    log.warn("process %d: %s", client.pid, tostring(errors.new(client.error)))
  else
    log.info("process %d ended: %d faults, %d pages replayed, %d zero, %d KiB, p50 %.0f us, p99 %.0f us", client.pid,
      client.faults, client.replayed, client.zero, client.bytes // 1024, client.p50 * 1e6, client.p99 * 1e6)
  end
end

-- Follows the server until the last VM has ended (where `once`) or the task is cancelled.
local function follow(server, options)
  local recorded, seen, replayed = false, false, {}
  while true do
    task.readable(server:fileno(), nil, "an event of the page server")
    core.uffd.drain(server:fileno())
    local stats = server:stats()
    for _, client in ipairs(stats.clients) do
      seen = seen or client.state ~= "handshake"
      if client.prefill_seconds > 0 and not replayed[client.id] then
        replayed[client.id] = true
        log.info("process %d: %d pages replayed in %.1f ms", client.pid, client.replayed, client.prefill_seconds * 1e3)
      end
    end
    if options.record and stats.recording == "settled" and not recorded then
      recorded = true
      log.info("recorded %d pages", M.finish(server:recording { out = options.record }, nil, "the recording"))
    end
    for _, client in ipairs(server:reap()) do
      say_client(client)
      replayed[client.id] = nil
    end
    if options.once and seen and server:stats().living == 0 then return end
  end
end

--- Serves the memory file `options.memory` on the Unix socket `options.socket` until the task is cancelled (its VMs are
-- then killed), or with `once` until the last VM has ended. Options: page_map, working_set (paths), record (a path:
-- what the first VM touches is written there once it has been quiet), mode (of the socket's file, 384), once; and tuning:
-- workers, around, ratio, spin, preload. `options.ready(server)` is called once it serves. Raises.
function M.serve(options)
  local memory = errors.check_uv("open", options.memory, uv.fs_open(options.memory, "r", 0))
  task.defer(function() uv.fs_close(memory) end)
  local listener = errors.check(core.uffd.listen(options.socket, options.mode or 384))
  task.defer(function()
    core.proc.close(listener)
    uv.fs_unlink(options.socket)
  end)
  local server <close> = errors.check(core.uffd.serve { listener = listener, memory = memory,
    page_map = options.page_map, working_set = options.working_set, record = options.record ~= nil,
    workers = options.workers, around = options.around, ratio = options.ratio, spin = options.spin,
    preload = options.preload })
  if options.ready then options.ready(server) end
  follow(server, options)
end

--- Finds the zero pages of a memory file and writes its page map to `out`. Returns how many are zero.
function M.index(memory, out)
  local job, err = core.uffd.index(memory, out)
  return M.finish(job, err, "the memory to be read")
end

return M
