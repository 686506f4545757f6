-- SPDX-License-Identifier: Apache-2.0
-- fcvm.guest against an agent of the test's own behind a socket as Firecracker's: what the host asks, and what it makes of
-- answers that no agent of ours gives.
describe("guest", function()
  local base64 = require "fcvm.base64"
  local core = require "fcvm.core"
  local guest = require "fcvm.guest"
  local json = require "fcvm.json"
  local task = require "fcvm.task"
  local uv = require "luv"
  local types = core.guest.types

  -- Serves `answer(kind, payload, say, session)` for each request at root/vsock.sock. An agent that is `silent` says HELLO
  -- only with its answer. Counts in self.sessions; self.open holds what is not closed.
  local function serve(root, answer, silent)
    local self = { sessions = 0, requests = {}, open = 0, hellos = 0, server = uv.new_pipe(false) }
    assert(self.server:bind(root .. "/vsock.sock"))
    assert(self.server:listen(8, function()
      local pipe, decoder, head, greeted = uv.new_pipe(false), core.guest.decoder(), "", false
      self.server:accept(pipe)
      self.sessions, self.open = self.sessions + 1, self.open + 1
      local function close()
        if pipe:is_closing() then return end
        pipe:close()
        self.open = self.open - 1
      end
      local function say(kind, payload, stream)
        if not greeted then pipe:write(core.guest.encode(types.HELLO, 0, core.guest.hello())) end
        greeted = true
        if not kind then return end
        pipe:write(core.guest.encode(kind, stream or 0, type(payload) == "table" and json.encode(payload) or payload or ""))
      end
      pipe:read_start(function(_, chunk)
        if not chunk then return close() end
        if head then
          head = head .. chunk
          local rest = head:match "^CONNECT 5200\n(.*)$"
          if not rest then return end
          head, chunk = nil, rest
          if self.deaf and self.sessions <= self.deaf then return end
          pipe:write "OK 1073741824\n"
          if not silent then say() end
        end
        decoder:feed(chunk)
        while true do
          local kind, _, payload = decoder:next()
          if not kind then break end
          if kind == types.HELLO then self.hellos = self.hellos + 1 end
          if kind ~= types.HELLO then
            self.requests[#self.requests + 1] = { kind = kind, payload = payload }
            answer(kind, payload, say, close)
          end
        end
      end)
      self.close_all = self.close_all or {}
      self.close_all[#self.close_all + 1] = close
    end))
    return self
  end

  -- Runs `body(root, agent)` in a task with such an agent.
  local function with(answer, silent, body)
    task.main(function()
      local root = assert(uv.fs_mkdtemp "/tmp/fcvm-guest-XXXXXX")
      local agent = serve(root, answer, silent)
      local ok, err = pcall(body, root, agent)
      for _, close in ipairs(agent.close_all or {}) do close() end
      agent.server:close()
      uv.fs_unlink(root .. "/vsock.sock")
      uv.fs_rmdir(root)
      if not ok then error(err, 0) end
    end)
  end

  local function test(name, answer, silent, body)
    it(name, function() with(answer, silent, body) end)
  end

  local function fails(name, pattern, fn, ...)
    local ok, err = pcall(fn, ...)
    assert.is_false(ok)
    assert.equal(name, err.name, tostring(err))
    assert.truthy(tostring(err):find(pattern, 1, true), tostring(err))
  end

  local function wall() local s, us = uv.gettimeofday() return s * 1000000000 + us * 1000 end

  test("has a silent agent answer, and keeps its session", function(_, _, say) say(types.OK) end, true, function(root, agent)
    local silence <close> = guest.quiesce(root)
    task.sleep(0.05)
    assert.equal(1, agent.open)
    assert.truthy(uv.fs_stat(root .. "/vsock.quiet"))
    -- Whoever else has something to say waits meanwhile.
    local other = task.spawn(guest.stop, root, 1)
    task.sleep(0.05)
    assert.equal(1, agent.sessions)
    guest.wake(root)
    assert.is_nil(uv.fs_stat(root .. "/vsock.quiet"))
    other:join()
    silence:close()
    silence:close()
    assert.same({ types.QUIESCE, types.WAKE, types.STOP },
      { agent.requests[1].kind, agent.requests[2].kind, agent.requests[3].kind })
    task.sleep(0.05)
    assert.equal(0, agent.open)
  end)

  test("passes the agent's refusal on", function(_, _, say)
    say(types.ERROR, { op = "quiesce", message = "the container does not run yet (none)", errno = 11 })
  end, false, function(root, agent)
    fails("EAGAIN", "agent: quiesce", guest.quiesce, root)
    assert.is_nil(uv.fs_stat(root .. "/vsock.quiet"))
    task.sleep(0.05)
    assert.equal(0, agent.open)
  end)

  test("takes no other frame for an answer", function(_, _, say) say(types.STATE, "{}") end, false, function(root)
    fails("EPROTO", "it said STATE, not OK", guest.wake, root)
    fails("EPROTO", "it said STATE, not OK", guest.quiesce, root)
    fails("EPROTO", "it said STATE, not RESTORED", guest.restore, root, { hostname = "a" })
    fails("EPROTO", "it said STATE, not TIME", guest.clock, root)
  end)

  test("hears of an agent that leaves", function(_, _, _, close) close() end, false, function(root)
    fails("EPIPE", "closed the connection", guest.status, root)
    fails("EPIPE", "closed the connection", guest.quiesce, root)
    guest.shutdown(root) -- its way to obey
  end)

  it("asks a guest that has just begun to run again until it hears", function()
    local left, hellos = 3, 0
    with(function(_, _, say, close)
      left = left - 1
      if left > 0 then return close() end
      task.spawn(function()
        task.sleep(0.2)
        say(types.OK)
      end)
    end, false, function(root, agent)
      guest.wake(root)
      assert.equal(3, agent.sessions)
      for _, request in ipairs(agent.requests) do assert.equal(types.WAKE, request.kind) end
      hellos = agent.hellos
      task.sleep(0.05)
      assert.equal(0, agent.open)
    end)
    -- One of each session, and then such as would be answered by a reset.
    assert.is_true(hellos > 4, hellos)
  end)

  test("opens another connection where the guest passes one over", function(_, _, say) say(types.OK) end, true,
    function(root, agent)
      agent.deaf = 2
      guest.wake(root)
      assert.equal(3, agent.sessions)
      task.sleep(0.05)
      assert.equal(0, agent.open)
    end)

  -- An agent that does as it is told; `error_ns` is how far its clock is off until it is set.
  local function restorer(state)
    return function(kind, payload, say)
      local request = json.decode(payload, "request") or {}
      if request.time_ns and not state.stubborn then state.off = request.time_ns - wall() end
      if kind == types.RESTORE then
        state.request = request
        if state.off_after_restore then state.off = state.off_after_restore end
        local answer = { generation = request.generation, hostname = request.hostname, machine_id = request.machine_id,
          output = 12, time_ns = wall() + state.off, boot_ns = 5 }
        for key, value in pairs(state.lie or {}) do answer[key] = value ~= json.null and value or nil end
        say(types.RESTORED, answer)
      else
        state.clocks = (state.clocks or 0) + 1
        if request.time_ns then state.sets = (state.sets or 0) + 1 end
        say(types.TIME, { time_ns = state.time or wall() + state.off, boot_ns = 5 })
      end
    end
  end

  local state = {}
  test("gives a clone what it asks for", restorer(state), true, function(root, agent)
    local restored = guest.restore(root, { hostname = "web1", name = "web-1", env = { SHARD = 3 },
      files = { { path = "/etc/shard", data = "three\0", mode = 384 } } })
    assert.equal(12, restored.output)
    assert.equal("web1", restored.hostname)
    assert.is_true(restored.clock.bound < 25000000)
    local request = state.request
    assert.same({ SHARD = "3" }, request.env)
    assert.same({ { path = "/etc/shard", mode = 384, data = "dGhyZWUA" } }, request.files)
    assert.equal("web-1", request.name)
    assert.equal(restored.generation, request.generation)
    for _, id in ipairs { restored.generation, restored.machine_id } do assert.truthy(id:match "^%x+$" and #id == 32) end
    assert.equal(88, #request.entropy) -- 64 bytes
    assert.equal(restored.clock.tries, agent.sessions - 1)
    -- Nothing is the same a second time.
    local again = guest.restore(root, { hostname = "web1" })
    assert.not_equal(restored.generation, again.generation)
    assert.not_equal(restored.machine_id, again.machine_id)
    assert.not_equal(request.entropy, state.request.entropy)
  end)

  it("corrects the clock until it is right", function()
    local off = { off_after_restore = -400000000 }
    with(restorer(off), false, function(root)
      local clock = guest.restore(root, { hostname = "a" }).clock
      assert.is_true(clock.bound < 25000000)
      assert.equal(1, off.sets)
      assert.equal(1, clock.tries)
    end)
  end)

  it("gives a clock up that cannot be corrected, and says so", function()
    local stubborn = { stubborn = true, off = 90000000 }
    with(restorer(stubborn), false, function(root)
      local clock = guest.restore(root, { hostname = "a" }).clock
      assert.equal(5, stubborn.clocks)
      assert.equal(5, clock.tries)
      assert.is_true(clock.bound >= 90000000 - 1000000, clock.bound)
    end)
  end)

  it("believes no clone that is not what it was given", function()
    local none = json.null
    for _, lie in ipairs { { hostname = "b" }, { hostname = 5 }, { generation = ("0"):rep(32) }, { machine_id = none },
      { output = -1 }, { output = "x" }, { output = 1.5 }, { time_ns = none }, { time_ns = "soon" }, { boot_ns = -1 } } do
      with(restorer { off = 0, lie = lie }, false, function(root)
        fails("EPROTO", "", guest.restore, root, { hostname = "a" })
      end)
    end
    with(function(_, _, say) say(types.RESTORED, "[1,") end, false, function(root)
      fails("EPROTO", "the clone's identity", guest.restore, root, { hostname = "a" })
    end)
    with(function(_, _, say) say(types.RESTORED, "5") end, false, function(root)
      fails("EPROTO", "is no object", guest.restore, root, { hostname = "a" })
    end)
  end)

  test("refuses identities that no agent could take", function() error "not asked" end, false, function(root)
    fails("EINVAL", "needs a hostname", guest.restore, root, {})
    fails("EINVAL", "unknown option 'hostnam'", guest.restore, root, { hostnam = "a" })
    fails("EINVAL", "must be integer", guest.restore, root, { hostname = "a",
      files = { { path = "/a", data = "", mode = "x" } } })
    fails("EFBIG", "over the limit of 65536", guest.restore, root, { hostname = "a",
      files = { { path = "/a", data = ("x"):rep(60000) } } })
  end)

  -- Output of one letter a frame after the events; a snapshot comes after every `n` letters.
  local function output(text, n)
    return function(kind, payload, say)
      if kind ~= types.ATTACH then return say(types.OK) end
      local from = json.decode(payload, "request").from
      if from == "end" then from = #text end
      from = from or 0
      say(types.EVENT, { event = "attached", from = from })
      say(types.EVENT, { event = "stage", name = "podman" })
      say(types.EVENT, { event = "container-started", pid = 7 })
      for i = from + 1, math.min(#text, from + n) do say(types.OUTPUT, text:sub(i, i), 1) end
      say(types.EVENT, { event = "quiet" })
    end
  end

  local function read(attached, n)
    local seen = {}
    for i = 1, n do
      local message = attached:next()
      seen[i] = message.data or message.event
    end
    return table.concat(seen, " ")
  end

  test("comes back after a snapshot, and repeats nothing", output("abcdefg", 3), false, function(root, agent)
    local attached <close> = guest.attach(root)
    assert.equal("attached stage container-started a b c d e f g", read(attached, 10))
    assert.equal(7, attached.offset)
    assert.equal(0, attached.lost)
    assert.same({ "{}", '{"from":3}', '{"from":6}' },
      { agent.requests[1].payload, agent.requests[2].payload, agent.requests[3].payload })
    task.sleep(0.05)
    assert.equal(1, agent.open)
  end)

  test("does not come back before the snapshot is made", output("abcd", 2), false, function(root, agent)
    local attached <close> = guest.attach(root)
    read(attached, 5)
    local silence <close> = guest.quiesce(root)
    local reader = task.spawn(function() return attached:next().data end)
    task.sleep(0.1)
    assert.equal(2, agent.sessions)
    silence:close()
    assert.equal("c", reader:join())
  end)

  test("waits for no snapshot that was made long ago", output("ab", 2), false, function(root)
    uv.fs_close(assert(uv.fs_open(root .. "/vsock.quiet", "wx", 384)))
    for _, when in ipairs { os.time() - 40, os.time() + 4000 } do
      assert(uv.fs_utime(root .. "/vsock.quiet", when, when))
      local began = task.now()
      local attached <close> = guest.attach(root)
      assert.is_true(task.now() - began < 5)
      attached:close()
    end
    -- A link that stands there is not followed.
    uv.fs_unlink(root .. "/vsock.quiet")
    assert(uv.fs_symlink("/nonexistent/victim", root .. "/vsock.quiet"))
    guest.quiesce(root):close()
    assert.is_nil(uv.fs_lstat(root .. "/vsock.quiet"))
  end)

  test("attaches where it is told", output("abcdef", 9), false, function(root)
    for from, offset in pairs { [2] = 2, ["end"] = 6 } do
      local attached <close> = guest.attach(root, { from = from })
      assert.equal(offset, attached.offset)
    end
    fails("EINVAL", "unknown option 'form'", guest.attach, root, { form = 1 })
  end)

  it("tells what the agent keeps no more", function()
    local gone = false
    with(function(_, _, say)
      say(types.EVENT, { event = "attached", from = gone and 100 or 0 })
      say(types.OUTPUT, "abc", 1)
      if not gone then say(types.EVENT, { event = "quiet" }) end
      gone = true
    end, false, function(root)
      local attached <close> = guest.attach(root)
      assert.equal("attached abc abc", read(attached, 3))
      assert.equal(97, attached.lost)
      assert.equal(103, attached.offset)
    end)
  end)

  test("takes no output without a place", function(_, _, say) say(types.OUTPUT, "abc", 1) end, false, function(root)
    fails("EPROTO", "it said OUTPUT, not EVENT", guest.attach, root)
  end)

  it("takes no place that is none", function()
    for _, event in ipairs { { event = "attached", from = -5 }, { event = "attached" }, { event = "other", from = 1 }, { 1 } } do
      with(function(_, _, say) say(types.EVENT, event) end, false, function(root, agent)
        fails("EPROTO", "", guest.attach, root)
        task.timeout(5, "the session to end", function()
          while agent.open > 0 do task.sleep(0.005) end
        end)
      end)
    end
  end)

  it("tries again where a snapshot has just begun", function()
    local busy = 2
    with(function(kind, _, say)
      busy = busy - 1
      if busy >= 0 then return say(types.ERROR, { op = "exec", message = "a snapshot is being made", errno = 16 }) end
      if kind == types.ATTACH then return say(types.EVENT, { event = "attached", from = 0 }) end
      say(types.EXITED, { status = 3 })
    end, false, function(root)
      guest.attach(root):close()
      busy = 2
      assert.equal(3, guest.exec(root, { "true" }, {}).status)
      busy = 100
      fails("EBUSY", "a snapshot is being made", guest.attach, root)
      fails("EBUSY", "a snapshot is being made", guest.exec, root, { "true" }, {})
    end)
  end)

  -- A command that is cat. After `cut` bytes of input its session ends for a snapshot, in which all input that is under
  -- way is lost; the next one takes it from there.
  local function cat(cut, cuts)
    local taken, data, ended, lost, sessions = 0, {}, false, false, 0
    return function(kind, payload, say)
      if kind == types.EXEC or kind == types.RESUME then
        lost, sessions = false, sessions + 1
        if kind == types.RESUME then
          assert.equal('{"exec":9}', payload)
          say(types.EVENT, { event = "resumed", stdin = taken, stdin_ended = ended })
        end
      elseif kind == types.STDIN and not lost then
        if sessions <= cuts and taken + #payload >= sessions * cut then
          lost = true
          return say(types.EVENT, { event = "quiet", exec = 9 })
        end
        taken, ended = taken + #payload, ended or payload == ""
        data[#data + 1] = payload
        if payload ~= "" then
          say(types.WINDOW, string.pack("<I4", #payload))
          say(types.OUTPUT, payload, 1)
        else
          say(types.EXITED, { status = 0 })
        end
      end
    end
  end

  it("goes on with a command after snapshots, its input whole", function()
    local parts = {}
    for i = 1, 60000 do parts[i] = ("%06d"):format(i) end
    local data = table.concat(parts)
    for _, source in ipairs { "string", "function" } do
      with(cat(100000, 3), false, function(root, agent)
        local at = 0
        local stdin = source == "string" and data or function()
          local piece = data:sub(at + 1, at + 5000)
          at = at + #piece
          if at % 50000 == 0 then task.sleep(0.001) end
          return piece ~= "" and piece or nil
        end
        local result = guest.exec(root, { "cat" }, { stdin = stdin, timeout = 20 })
        assert.equal(0, result.status)
        assert.is_true(result.stdout == data)
        task.sleep(0.05)
        assert.equal(0, agent.open)
      end)
    end
  end)

  it("sends the input's end again where it was lost", function()
    with(cat(0, 2), false, function(root)
      assert.equal(0, guest.exec(root, { "cat" }, { stdin = "", timeout = 20 }).status)
    end)
  end)

  it("believes no agent that took more than it was sent", function()
    for _, taken in ipairs { 4, -1, "x" } do
      with(function(kind, _, say)
        if kind == types.EXEC then say(types.EVENT, { event = "quiet", exec = 1 }) end
        if kind == types.RESUME then say(types.EVENT, { event = "resumed", stdin = taken, stdin_ended = false }) end
      end, false, function(root)
        fails("EPROTO", "input that was not sent", guest.exec, root, { "cat" }, { stdin = "abc", timeout = 20 })
      end)
    end
  end)

  test("grants no more than was sent", function(kind, payload, say)
    if kind == types.STDIN then
      say(types.WINDOW, string.pack("<I4", 0xffffffff))
      if payload == "" then say(types.EXITED, { status = 0 }) end
    end
  end, false, function(root)
    assert.equal(0, guest.exec(root, { "cat" }, { stdin = ("x"):rep(200000), timeout = 20 }).status)
  end)

  it("writes base64 as the agent reads it", function()
    assert.equal("", base64.encode "")
    assert.equal("Zg==", base64.encode "f")
    assert.equal("bm8=", base64.encode "no")
    assert.equal("+/+/", base64.encode "\xfb\xff\xbf")
  end)
end)
