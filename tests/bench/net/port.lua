-- SPDX-License-Identifier: Apache-2.0
--- A published port: throughput and round trip from the host's loopback to a server in the guest's place, for one mode. A
-- namespace stands for the guest, with a veth pair where Firecracker would have the TAP. Prints three numbers: Gbit/s in,
-- Gbit/s out, us a round trip. tests/bench/net/ports runs it for each mode.
local fcvm = require "fcvm"
local core, errors, json, paths = fcvm.core, fcvm.errors, fcvm.json, fcvm.paths
local network, publish = require "fcvm.network", require "fcvm.publish"
local uv = require "luv"

local args = fcvm.args({
  mode = { "string", "none (the server is the host's), bridged, pasta or slirp4netns", positional = 1 },
  seconds = { "integer", "of each throughput", default = 3 },
}, { report = false })

local PINGS = 3000
if uv.getuid() ~= 0 then errors.check(core.proc.userns_enter()) end

-- A guest's place; returns its namespace, and the host's port that leads to a port in it.
local function make()
  local ports, release = publish.hold(publish.parse { "127.0.0.1:0:5201", "127.0.0.1:0:5202" })
  local record = { vm_id = "vm-00000000beef", slot = 9000, pid = math.tointeger(uv.os_getpid()), network_mode = args.mode,
    ports = ports, dns = { servers = json.array {} } }
  paths.ensure(paths.vm(record.vm_id))
  fcvm.defer(function()
    network.remove(record)
    require("fcvm.resources").remove_tree(paths.vm(record.vm_id))
  end)
  local place = network.create(record)
  network.furnish(record, release)
  local guest = paths.vm(record.vm_id) .. "/guest"
  errors.check(core.net.namespace_create(guest))
  fcvm.defer(function() core.net.namespace_remove(guest) end)
  local inside <close> = errors.check(core.net.open(place.namespace))
  local there <close> = errors.check(core.net.open(guest))
  errors.check(inside:link_delete(network.tap))
  errors.check(inside:link_add_veth(network.tap, "eth0", guest))
  errors.check(inside:address_add(network.tap, network.guest_gateway .. "/30"))
  errors.check(inside:link_set(network.tap, { up = true, route_localnet = args.mode == "pasta" or nil }))
  errors.check(there:link_set("lo", { up = true }))
  errors.check(there:address_add("eth0", network.guest_address .. "/30"))
  errors.check(there:link_set("eth0", { up = true }))
  errors.check(there:route_add { to = "0.0.0.0/0", via = network.guest_gateway })
  return guest, ports[1].host_port, ports[2].host_port
end

local guest, port, echo_port
if args.mode == "none" then port, echo_port = 5201, 5202 else guest, port, echo_port = make() end

local function serve(argv)
  local child = errors.check(core.proc.spawn { argv = argv, netns = guest, session = true })
  fcvm.defer(function() child:close() end)
end
serve { "iperf3", "--server", "--one-off", "--port", "5201" }
serve { "perl", "-MIO::Socket", "-e", [[
  $s = IO::Socket::INET->new(LocalPort => 5202, Listen => 9, ReuseAddr => 1) or die;
  while ($c = $s->accept) { $c->setsockopt(6, 1, 1); syswrite $c, $b while sysread $c, $b, 1 }]] }

-- Runs a program until `read` makes something of its output: a server may need a moment, which a way that accepts at once hides.
local function run(argv, read)
  for _ = 1, 40 do
    local words = { table.unpack(argv) }
    words.timeout, words.contain, words.check = 60, false, false
    local result = fcvm.process.run(words)
    local value = result.status == 0 and read(result.stdout)
    if value then return value end
    fcvm.sleep(0.1)
  end
  errors.raise { op = "measure", subject = argv[1], name = "EIO", message = "it did not get through" }
end

local function throughput(reverse)
  local argv = { "iperf3", "--client", "127.0.0.1", "--port", tostring(port), "--time", tostring(args.seconds), "--json" }
  if reverse then
    argv[#argv + 1] = "--reverse"
    serve { "iperf3", "--server", "--one-off", "--port", "5201" }
  end
  return run(argv, function(text)
    local report = json.decode(text)
    return report and not report.error and report["end"].sum_received.bits_per_second / 1e9
  end)
end

local into = throughput(false)
fcvm.sleep(0.3)
local out = throughput(true)
local trip = run({ "perl", "-MIO::Socket", "-MTime::HiRes=time", "-e", ([[
  $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => %d, Timeout => 2) or exit 1; $s->setsockopt(6, 1, 1);
  sub once { syswrite $s, 'x'; sysread($s, $b, 1) or exit 1 } once() for 1 .. 200; $t = time; once() for 1 .. %d;
  printf '%%.1f', (time - $t) / %d * 1e6]]):format(echo_port, PINGS, PINGS) }, function(text) return text end)
print(("%.2f %.2f %s"):format(into, out, trip))
