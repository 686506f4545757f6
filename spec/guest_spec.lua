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
    local self = { sessions = 0, requests = {}, open = 0, server = uv.new_pipe(false) }
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
          pipe:write "OK 1073741824\n"
          if not silent then say() end
        end
        decoder:feed(chunk)
        while true do
          local kind, _, payload = decoder:next()
          if not kind then break end
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

  test("has a silent agent answer, and keeps its session", function(kind, _, say)
    assert(kind == types.QUIESCE or kind == types.WAKE)
    say(types.OK)
  end, true, function(root, agent)
    local session = guest.quiesce(root)
    task.sleep(0.05)
    assert.equal(1, agent.open)
    guest.wake(root)
    session:close()
    assert.same({ types.QUIESCE, types.WAKE }, { agent.requests[1].kind, agent.requests[2].kind })
    task.sleep(0.05)
    assert.equal(0, agent.open)
  end)

  test("passes the agent's refusal on", function(_, _, say)
    say(types.ERROR, { op = "quiesce", message = "the container does not run yet (none)", errno = 11 })
  end, false, function(root, agent)
    fails("EAGAIN", "agent: quiesce", guest.quiesce, root)
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
    fails("EPIPE", "closed the connection", guest.wake, root)
    fails("EPIPE", "closed the connection", guest.restore, root, { hostname = "a" })
    guest.shutdown(root) -- its way to obey
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

  -- Output of one letter a frame, then the events.
  local function output(text)
    return function(_, payload, say)
      local from = json.decode(payload, "request").from
      if from == "end" then from = #text end
      from = from or 0
      say(types.EVENT, { event = "attached", from = from })
      say(types.EVENT, { event = "stage", name = "podman" })
      say(types.EVENT, { event = "container-started", pid = 7 })
      for i = from + 1, #text do say(types.OUTPUT, text:sub(i, i), 1) end
    end
  end

  test("attaches anew without repeating anything", output "abcdef", false, function(root, agent)
    local attached <close> = guest.attach(root)
    local function read(n)
      local seen = {}
      for i = 1, n do
        local message = attached:next()
        seen[i] = message.data or message.event
      end
      return table.concat(seen, " ")
    end
    assert.equal("attached stage container-started a b c d", read(7))
    assert.equal(4, attached.offset)
    assert.equal(0, attached:reattach())
    assert.equal("e f", read(2))
    assert.equal(0, attached:reattach())
    assert.equal('{"from":6}', agent.requests[3].payload)
    assert.equal(6, attached.offset)
  end)

  test("attaches where it is told", output "abcdef", false, function(root)
    for from, offset in pairs { [2] = 2, ["end"] = 6 } do
      local attached <close> = guest.attach(root, { from = from })
      attached:next()
      assert.equal(offset, attached.offset)
    end
    fails("EINVAL", "unknown option 'form'", guest.attach, root, { form = 1 })
  end)

  it("tells what the agent keeps no more", function()
    local gone = false
    with(function(_, _, say)
      say(types.EVENT, { event = "attached", from = gone and 100 or 0 })
      say(types.OUTPUT, "abc", 1)
      gone = true
    end, false, function(root)
      local attached <close> = guest.attach(root)
      attached:next()
      attached:next()
      assert.equal(97, attached:reattach())
    end)
  end)

  test("takes no output without a place", function(_, _, say) say(types.OUTPUT, "abc", 1) end, false, function(root)
    local attached <close> = guest.attach(root)
    fails("EPROTO", "before its place", attached.next, attached)
  end)

  test("takes no place that is none", function(_, _, say) say(types.EVENT, { event = "attached", from = -5 }) end, false,
    function(root)
      local attached <close> = guest.attach(root)
      fails("EPROTO", "begins nowhere", attached.next, attached)
    end)

  it("writes base64 as the agent reads it", function()
    assert.equal("", base64.encode "")
    assert.equal("Zg==", base64.encode "f")
    assert.equal("Zm8=", base64.encode "fo")
    assert.equal("+/+/", base64.encode "\xfb\xff\xbf")
  end)
end)
