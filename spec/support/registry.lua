-- SPDX-License-Identifier: Apache-2.0
--- Registries on loopback, for tests of pulls: Debian's docker-registry, and one of a few lines that serves an OCI layout
-- and misbehaves on demand. Both live as long as the scope of the task that starts them.
local uv = require "luv"
local json = require "fcvm.json"
local layout = require "spec.support.layout"
local task = require "fcvm.task"

local M = {}

local REASON = { [200] = "OK", [401] = "Unauthorized", [404] = "Not Found", [429] = "Too Many Requests", [400] = "Bad Request",
  [500] = "Internal Server Error" }

local function read(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read "a"
  file:close()
  return text
end

-- What a registry answers: status, headers, body.
local function answer(self, method, path, headers)
  local mode = self.mode
  if mode.too_many and mode.too_many > 0 and path:match "manifests" then
    mode.too_many = mode.too_many - 1
    return 429, { ["Retry-After"] = tostring(mode.retry_after or 1) }, '{"errors":[{"code":"TOOMANYREQUESTS"}]}'
  end
  if mode.authorization and headers.authorization ~= mode.authorization then
    return 401, { ["WWW-Authenticate"] = 'Basic realm="registry"' }, '{"errors":[{"code":"UNAUTHORIZED"}]}'
  end
  if path == "/v2/" then return 200, {}, "{}" end
  if mode.fail then return mode.fail, {}, "" end
  local what, key = path:match "^/v2/[%w/._-]+/(%l+)/([%w:._-]+)$"
  local hex = key and key:match "^sha256:(%x+)$"
  if what == "manifests" and not hex then hex = self.tags[key] and self.tags[key]:sub(8) end
  local body = hex and read(("%s/blobs/sha256/%s"):format(self.layout, hex))
  if not body then return 404, {}, '{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}' end
  if what == "blobs" then
    self.blobs = self.blobs + 1
    if mode.break_blobs and #body > 1000 then body = body:sub(1, 500) .. "XX" .. body:sub(503) end
  end
  local kind = what == "manifests" and json.decode(body, "manifest").mediaType or "application/octet-stream"
  return 200, { ["Content-Type"] = kind, ["Docker-Content-Digest"] = "sha256:" .. hex },
    method == "HEAD" and "" or body, #body
end

local function serve(self, client)
  local pending = ""
  client:read_start(function(_, chunk)
    if not chunk then
      if not client:is_closing() then client:close() end
      return
    end
    -- A client that tries TLS first is told at once that this is none.
    if chunk:byte() == 0x16 then return client:close() end
    pending = pending .. chunk
    while true do
      local head, rest = pending:match "^(.-)\r\n\r\n(.*)$"
      if not head then return end
      pending = rest
      local method, path = head:match "^(%u+) (%S+)"
      local headers = {}
      for name, value in head:gmatch "\r\n([%w-]+): ([^\r]*)" do headers[name:lower()] = value end
      self.requests[#self.requests + 1] = method .. " " .. path
      if self.mode.silent and path:match(self.mode.silent) then return end
      local status, extra, body, size = answer(self, method, path, headers)
      local lines = { ("HTTP/1.1 %d %s"):format(status, REASON[status] or "?"), "Content-Length: " .. (size or #body),
        "Docker-Distribution-Api-Version: registry/2.0" }
      for name, value in pairs(extra) do lines[#lines + 1] = name .. ": " .. value end
      client:write(table.concat(lines, "\r\n") .. "\r\n\r\n" .. body)
    end
  end)
end

--- A registry that serves the OCI layout `dir` under any repository, with `tags` {latest = digest}. `mode`, which may be
-- changed at any time: silent (a pattern of paths that get no answer), authorization (a header that is demanded),
-- too_many and retry_after (so many requests for manifests get 429), fail (a status for all), break_blobs.
-- Returns {port=, requests=, blobs=, mode=}; it ends with the scope.
function M.fake(dir, tags, mode)
  local self = { layout = dir, tags = tags, mode = mode or {}, requests = {}, blobs = 0 }
  local server, clients = uv.new_tcp(), {}
  assert(server:bind("127.0.0.1", 0))
  self.port = server:getsockname().port
  assert(server:listen(16, function()
    local client = uv.new_tcp()
    server:accept(client)
    clients[#clients + 1] = client
    serve(self, client)
  end))
  task.defer(function()
    server:close()
    for _, client in ipairs(clients) do
      if not client:is_closing() then client:close() end
    end
  end)
  return self
end

--- A port of 127.0.0.1 that nothing listens on.
function M.free_port()
  local socket = uv.new_tcp()
  assert(socket:bind("127.0.0.1", 0))
  local port = socket:getsockname().port
  socket:close()
  return port
end

local function connects(port)
  local socket = uv.new_tcp()
  local failure = task.await(function(resume)
    socket:connect("127.0.0.1", port, resume)
    return function() socket:close() end
  end)
  socket:close()
  return failure == nil
end

--- Debian's docker-registry on a free port, with its storage in `dir`. Returns {port=}; it ends with the scope.
function M.real(dir)
  local port = M.free_port()
  layout.write(dir .. "/config.yml", ([[
version: 0.1
log: { level: error }
storage: { filesystem: { rootdirectory: %s/storage } }
http: { addr: 127.0.0.1:%d }
]]):format(dir, port))
  local ended
  local handle = assert(uv.spawn("docker-registry", { args = { "serve", dir .. "/config.yml" } }, function() ended = true end))
  task.defer(function()
    handle:kill "sigkill"
    task.timeout(10, "docker-registry to end", function()
      while not ended do task.sleep(0.01) end
    end)
    handle:close()
  end)
  task.timeout(30, "docker-registry to listen", function()
    while not connects(port) do
      assert(not ended, "docker-registry ended at once")
      task.sleep(0.05)
    end
  end)
  return { port = port }
end

return M
