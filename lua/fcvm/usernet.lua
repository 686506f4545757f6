-- SPDX-License-Identifier: Apache-2.0
--- The way out of a rootless VM's network namespace: pasta, or slirp4netns where that is missing. Either is a process of the
-- user's that copies what goes over a link `eth0` of the namespace to sockets of the host and back, and listens on the ports
-- that are published. It ends with the VM's supervisor.
local core = require "fcvm.core"
local errors = require "fcvm.errors"
local process = require "fcvm.process"
local publish = require "fcvm.publish"
local task = require "fcvm.task"
local unix = require "fcvm.unix"
local uv = require "luv"

local M = {}

local READY_SECONDS = 20
local TEXT_MAX = 4096 -- of what it says while it starts
local ANSWER_MAX = 4096
-- CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_SYS_ADMIN of the supervisor's user namespace: to enter the network namespace and
-- make a link there. Over the host's they give nothing.
local CAPABILITIES = 1 << 10 | 1 << 12 | 1 << 21

--- The link in the namespace, and by kind its address and that of the host as the namespace sees it.
M.link = "eth0"
M.places = {
  pasta = { address = "10.231.0.2", gateway = "10.231.0.1" },
  slirp4netns = { address = "10.231.0.100", gateway = "10.231.0.2" }, -- it has a /24 and numbers these itself
}

local function each_port(ports, protocol, fn)
  local none = true
  for _, port in ipairs(ports) do
    if port.protocol == protocol then
      none = false
      fn(port)
    end
  end
  return none
end

local function pasta_argv(namespace, ports)
  local argv = { "pasta", "--ipv4-only", "--config-net", "--foreground", "--quiet", "--netns", namespace, "--netns-only",
    "--ns-ifname", M.link, "--address", M.places.pasta.address, "--netmask", "30", "--gateway", M.places.pasta.gateway,
    -- The host's own loopback is not the guest's to reach, nor are ports of the namespace anybody's on the host.
    "--no-map-gw", "--tcp-ns", "none", "--udp-ns", "none", "--no-dhcp", "--no-dhcpv6", "--no-ndp", "--no-ra",
    "--pid", "pasta.pid" }
  for protocol, option in pairs { tcp = "--tcp-ports", udp = "--udp-ports" } do
    local none = each_port(ports, protocol, function(port)
      argv[#argv + 1] = option
      argv[#argv + 1] = ("%s%d:%d"):format(port.ip and port.ip .. "/" or "", port.host_port, port.guest_port)
    end)
    if none then
      argv[#argv + 1] = option
      argv[#argv + 1] = "none"
    end
  end
  return argv
end

local function slirp_argv(namespace)
  return { "slirp4netns", "--enable-seccomp", "--disable-host-loopback", "--disable-dns", "--netns-type=path", "--mtu=65520",
    "--configure", "--cidr=10.231.0.0/24",
    "--ready-fd=3", "--api-socket=slirp.sock", namespace, M.link }
end

local function fail(kind, ports, words)
  for _, port in ipairs(ports) do
    -- Somebody took it between our letting go of it and its start: who, is told as ever.
    if words:lower():find "bind" then publish.hold { port } end
  end
  errors.raise { op = "start " .. kind, name = "EIO", message = words ~= "" and words or "it ended without a word",
    hint = "fcvm setup preflight says what a rootless network needs" }
end

-- Starts the program in the current scope; returns its child and a function that gives what it has said.
local function spawn(kind, argv, fds, directory)
  local reader, writer = errors.check(core.proc.pipe())
  fds[1], fds[2] = writer, writer
  local child, err = core.proc.spawn { argv = argv, cwd = directory, fds = fds, session = true, contain = true,
    capabilities = CAPABILITIES }
  core.proc.close(writer)
  if not child then
    core.proc.close(reader)
    error(errors.wrap(err, "start " .. kind), 0)
  end
  task.defer(function() child:close() end)
  local words = ""
  local pipe = uv.new_pipe(false)
  errors.check_uv("open pipe", nil, pipe:open(reader))
  pipe:read_start(function(_, chunk)
    if chunk then words = (words .. chunk):sub(-TEXT_MAX) else pipe:close() end
  end)
  task.defer(function() if not pipe:is_closing() then pipe:close() end end)
  return child, function() return (words:gsub("%s+", " "):gsub("Failed to send %d+ bytes to syslog ?", "")) end
end

-- Waits until `ready()` is true, or raises what the program said when it ended before.
local function wait_ready(kind, child, words, ports, ready)
  task.timeout(READY_SECONDS, kind .. " to be ready", function()
    while not ready() do
      if child:wait() then
        task.sleep(0.05) -- its last words may still be in the pipe
        fail(kind, ports, words())
      end
      task.sleep(0.002)
    end
  end)
end

local function start_pasta(namespace, ports, directory)
  local child, words = spawn("pasta", pasta_argv(namespace, ports), {}, directory)
  -- It writes it when everything is set up.
  wait_ready("pasta", child, words, ports, function()
    local stat = uv.fs_stat(directory .. "/pasta.pid")
    return stat and stat.size > 0
  end)
  return child, words
end

-- Has slirp4netns listen on a port; one request a connection, as its API has it.
local function forward(directory, port)
  local json = require "fcvm.json"
  local pipe, failure = unix.connect(directory, "slirp.sock")
  if not pipe then errors.raise { op = "talk to slirp4netns", message = failure } end
  local answer = ""
  pipe:write(json.encode { execute = "add_hostfwd", arguments = { proto = port.protocol, host_addr = port.ip or "0.0.0.0",
    host_port = port.host_port, guest_port = port.guest_port } })
  local ok, err = pcall(task.timeout, READY_SECONDS, "slirp4netns to answer", task.await, function(resume)
    pipe:read_start(function(_, chunk)
      answer = answer .. (chunk or "")
      if not chunk or #answer > ANSWER_MAX then resume() end
    end)
  end)
  pipe:close()
  if not ok then error(err, 0) end
  local result = json.decode(answer, "slirp4netns's answer", ANSWER_MAX)
  if type(result) ~= "table" or result.error then fail("slirp4netns", { port }, "it could not bind: " .. answer) end
end

local function start_slirp(namespace, ports, directory)
  local reader, writer = errors.check(core.proc.pipe())
  local child, words = spawn("slirp4netns", slirp_argv(namespace), { [3] = writer }, directory)
  core.proc.close(writer)
  local ready = false
  task.defer(function() core.proc.close(reader) end)
  wait_ready("slirp4netns", child, words, ports, function()
    ready = ready or task.readable_within(reader, 0.01)
    return ready
  end)
  for _, port in ipairs(ports) do forward(directory, port) end
  return child, words
end

local starts = { pasta = start_pasta, slirp4netns = start_slirp }

--- Starts it for the network namespace at a path, in the current scope, and waits until the link is there and the ports are
-- listened on. `ports` are as of publish.hold, and free; `directory` takes its files. Returns a function that waits for its
-- end and gives the error that this is.
function M.start(kind, namespace, ports, directory)
  local child, words = starts[kind](namespace, ports, directory)
  return function()
    process.wait(child)
    return errors.new { op = "run " .. kind, name = "EIO", status = errors.status.guest,
      message = "it ended, and with it the VM's network" .. (words() ~= "" and ": " .. words() or "") }
  end
end

--- Whether the program of a kind is there to be started.
function M.is_there(kind)
  for directory in (os.getenv "PATH" or "/usr/bin:/bin"):gmatch "[^:]+" do
    if uv.fs_access(directory .. "/" .. kind, "X") then return true end
  end
  return false
end

return M
