-- SPDX-License-Identifier: Apache-2.0
-- fcvm.net as a recipe uses it: real namespaces and traffic, no VM.
describe("fcvm.net #root", function()
  local cli = require "spec.support.cli"
  local core = require "fcvm.core"
  local fcvm = require "fcvm"
  local gc = require "fcvm.gc"
  local paths = require "fcvm.paths"
  local process = require "fcvm.process"
  local resources = require "fcvm.resources"
  local task = require "fcvm.task"
  local uv = require "luv"

  local home, old_data

  before_each(function()
    home = assert(uv.fs_mkdtemp "/tmp/fcvm-spec-fcvmnet-XXXXXX")
    old_data = paths.data()
    paths.set_data(home)
  end)

  after_each(function()
    paths.set_data(old_data)
    task.main(function() resources.remove_tree(home) end)
  end)

  local function test(name, body) it(name, function() task.main(body) end) end

  -- A server of one line in a namespace, for the current scope.
  local function serve(namespace, port, line)
    local child = assert(core.proc.spawn { argv = { "perl", "-MIO::Socket", "-e",
      '$s = IO::Socket::INET->new(LocalPort => $ARGV[0], Listen => 9, ReuseAddr => 1) or die; '
      .. 'while ($c = $s->accept) { print $c $ARGV[1]; close $c }', tostring(port), line }, netns = namespace.path,
      session = true })
    task.defer(function() child:close() end)
  end

  -- What a server says to who comes from `namespace` (nil: from the host); nil where it is not reached in a second or so.
  local function fetch(namespace, address, port, seconds)
    local reader, writer = assert(core.proc.pipe())
    local child = assert(core.proc.spawn { argv = { "perl", "-MIO::Socket", "-e",
      'for (1 .. 20 * $ARGV[2]) { $s = IO::Socket::INET->new(PeerAddr => $ARGV[0], PeerPort => $ARGV[1], Timeout => 1) and last; '
      .. 'select undef, undef, undef, 0.05 } $s or exit 1; print <$s>', address, tostring(port), tostring(seconds or 3) },
      netns = namespace and namespace.path, fds = { [1] = writer }, session = true })
    core.proc.close(writer)
    local status = process.wait(child).status
    local text = core.proc.read_fd(reader, 4096)
    core.proc.close(reader)
    child:close()
    return status == 0 and text or nil
  end

  local function traces()
    local list, host <close> = {}, assert(core.net.open())
    for _, link in ipairs(assert(host:links())) do
      if link.alias then list[#list + 1] = link.name end
    end
    for _, entry in ipairs(assert(host:tables())) do list[#list + 1] = entry.name end
    for _, dir in ipairs { paths.state(), paths.run() .. "/netns" } do
      local scan = uv.fs_scandir(dir)
      for name in function() return scan and uv.fs_scandir_next(scan) end do
        if name ~= ".lock" then list[#list + 1] = name end
      end
    end
    return list
  end

  test("makes what a recipe wants, and takes it back with the scope", function()
    local before = traces()
    task.scope(function()
      local lab, other = fcvm.net.namespace "lab", fcvm.net.namespace "other"
      local host <close> = fcvm.net.host()
      host:veth { name = "spec0", peer = "eth0", namespace = lab }
      host:veth { name = "spec1", peer = "eth0", namespace = other }
      host:bridge("specbr", { "spec0", "spec1" })
      host:address("specbr", "10.254.0.1/24")
      lab:address("eth0", "10.254.0.2/24")
      other:address("eth0", "10.254.0.3/24")
      lab:route { to = "0.0.0.0/0", via = "10.254.0.1" }
      serve(lab, 80, "lab")
      assert.equal("lab", fetch(other, "10.254.0.2", 80))
      local held = host:publish { "127.0.0.1:0:80", to = "10.254.0.2" }
      host:nat { masquerade = { { source = "127.0.0.0/8", out = "specbr" } } }
      host:set("specbr", { route_localnet = true })
      assert.equal("lab", fetch(nil, "127.0.0.1", held[1].host_port))
      lab:tap("tap7", { uid = 0 })
      local kinds = {}
      for _, link in ipairs(lab:links()) do kinds[link.name] = link.kind end
      assert.equal("tun", kinds.tap7)
      assert.is_true(#traces() > #before + 5)
    end)
    assert.same(before, traces())
  end)

  test("holds back what a policy does not allow, and counts it", function()
    local inner, middle, outer = fcvm.net.namespace "inner", fcvm.net.namespace "middle", fcvm.net.namespace "outer"
    middle:veth { name = "in", peer = "eth0", namespace = inner }
    middle:veth { name = "out", peer = "eth0", namespace = outer }
    middle:address("in", "10.253.0.1/30")
    inner:address("eth0", "10.253.0.2/30")
    middle:address("out", "10.253.1.1/30")
    outer:address("eth0", "10.253.1.2/30")
    inner:route { to = "0.0.0.0/0", via = "10.253.0.1" }
    outer:route { to = "0.0.0.0/0", via = "10.253.1.1" }
    middle:forwarding(true)
    serve(outer, 80, "eighty")
    serve(outer, 81, "eighty-one")
    assert.equal("eighty-one", fetch(inner, "10.253.1.2", 81))
    middle:policy { link = "in", allow = "10.253.1.0/24:80" }
    assert.equal("eighty", fetch(inner, "10.253.1.2", 80))
    assert.is_nil(fetch(inner, "10.253.1.2", 81, 0.2))
    local denied = middle:denied()
    assert.is_true(denied.denied > 0)
    assert.equal(81, denied.destinations[1].port)
    middle:policy { link = "in", allow = "allow" }
    assert.equal("eighty-one", fetch(inner, "10.253.1.2", 81))
  end)

  test("is gone when its owner was killed, by the next gc", function()
    local before = traces()
    local file = home .. "/recipe.lua"
    assert(core.disk.write(file, [[
      local fcvm = require "fcvm"
      local lab, host = fcvm.net.namespace "lab", fcvm.net.host()
      host:veth { name = "spec2", peer = "eth0", namespace = lab }
      host:nat { masquerade = { { source = "10.254.9.0/30" } } }
      print "made"
      io.stdout:flush()
      fcvm.sleep(60)
    ]], 384))
    local reader, writer = assert(core.proc.pipe())
    local child = assert(core.proc.spawn { argv = { cli.binary, "recipe", "run", file }, fds = { [1] = writer, [2] = 2 },
      session = true })
    core.proc.close(writer)
    assert.equal("made\n", core.proc.read_fd(reader, 64))
    core.proc.close(reader)
    child:kill(9)
    cli.eventually("it to end", function() return child:wait() end, 10)
    child:close()
    assert.is_true(#traces() >= #before + 5)
    for _, entry in ipairs((gc.collect())) do assert.is_true(entry.removed) end
    assert.is_true(#traces() <= #before)
  end)

  test("says what is wrong with what it was asked", function()
    local lab <close> = fcvm.net.namespace "lab"
    local function refused(pattern, fn, ...)
      local ok, err = pcall(fn, ...)
      assert.is_false(ok)
      assert.matches(pattern, tostring(err))
    end
    refused("unknown option 'pear' %(did you mean 'peer'%?%)", lab.veth, lab, { name = "a", pear = "b" })
    refused("no%-such", lab.address, lab, "no-such", "10.0.0.1/24")
    refused("for fcvm.net.host", lab.publish, lab, { "80:80", to = "10.0.0.1" })
    refused("names are for VMs", lab.policy, lab, { link = "lo", allow = "example.org" })
    refused("a label is a string", fcvm.net.namespace)
    lab:close()
    lab:close()
    refused("it is closed", lab.links, lab)
  end)
end)
