-- SPDX-License-Identifier: Apache-2.0
describe("fcvm.core.disk", function()
  local uv = require "luv"
  local disk = require("fcvm.core").disk
  local dir

  before_each(function() dir = assert(uv.fs_mkdtemp "/tmp/fcvm-spec-disk-XXXXXX") end)

  after_each(function()
    local scan = uv.fs_scandir(dir)
    for name, kind in function() return uv.fs_scandir_next(scan) end do
      if kind == "directory" then uv.fs_rmdir(dir .. "/" .. name) else uv.fs_unlink(dir .. "/" .. name) end
    end
    assert(uv.fs_rmdir(dir))
  end)

  local function path(name) return dir .. "/" .. name end
  local function put(name, text) assert(disk.write(path(name), text, 384)) end
  local function exists(name) return uv.fs_stat(path(name)) ~= nil end

  local function fails(name, value, err)
    assert.is_nil(value)
    assert.equal(name, err.name)
    assert.is_string(err.op)
    assert.is_string(err.message)
    return err
  end

  it("reads what it writes, whole or not at all", function()
    put("file", "a\0b")
    assert.equal("a\0b", disk.read(path "file", 3))
    local err = fails("EFBIG", disk.read(path "file", 2))
    assert.equal(path "file", err.subject)
    fails("ENOENT", disk.read(path "none", 10))
    fails("ENOENT", disk.write(path "none/file", "x"))
    put("empty", "")
    assert.equal("", disk.read(path "empty", 0))
    assert.equal("", disk.read("/proc/self/environ", 1 << 20):sub(1, 0))
  end)

  it("writes with the mode that is given, and for the owner alone where none is", function()
    assert(disk.write(path "file", "x", 420))
    assert.equal(420, uv.fs_stat(path "file").mode & 511)
    assert(disk.write(path "file", "x"))
    assert.equal(384, uv.fs_stat(path "file").mode & 511)
  end)

  it("clones and refuses what is there", function()
    put("src", "content")
    local how = assert(disk.clone(path "src", path "dst"))
    assert.is_true(how == "reflink" or how == "copy")
    assert.equal("content", disk.read(path "dst", 100))
    fails("EEXIST", disk.clone(path "src", path "dst"))
    fails("ENOENT", disk.clone(path "none", path "other"))
  end)

  it("says whether there are reflinks", function()
    assert.is_boolean((disk.reflinks(dir)))
    fails("ENOENT", disk.reflinks(path "none"))
  end)

  it("publishes", function()
    put("tmp", "new")
    put("final", "old")
    fails("EEXIST", disk.publish(path "tmp", path "final", "new"))
    assert.is_true(disk.publish(path "tmp", path "final", "exchange"))
    assert.equal("old", disk.read(path "tmp", 9))
    assert.is_true(disk.publish(path "tmp", path "final"))
    assert.equal("old", disk.read(path "final", 9))
    assert.has_error(function() disk.publish("a", "b", "somehow") end)
  end)

  it("syncs files and directories", function()
    put("file", "x")
    assert.is_true(disk.sync(path "file"))
    assert.is_true(disk.sync(dir))
    fails("ENOENT", disk.sync(path "none"))
  end)

  it("raises on misuse", function()
    put("src", "x")
    for _, call in ipairs {
      function() disk.clone(path "src") end,
      function() disk.clone("a\0b", path "dst") end,
      function() disk.read(path "src") end,
      function() disk.read(path "src", -1) end,
      function() disk.read("", 1) end,
      function() disk.write(path "src", "x", 4096) end,
      function() disk.write(path "src", {}) end,
      function() disk.copy(path "src", path "dst"):step(0) end,
    } do
      assert.has_error(call)
    end
    collectgarbage()
  end)

  describe("copier", function()
    it("copies in steps", function()
      put("src", ("x"):rep(1000))
      local copier <close> = assert(disk.copy(path "src", path "dst"))
      local done, total = copier:step(400)
      assert.same({ 400, 1000 }, { done, total })
      assert.matches("^fcvm.disk.copier: ", tostring(copier))
      repeat done, total = assert(copier:step(400)) until done == total
      copier:close()
      assert.equal(("x"):rep(1000), disk.read(path "dst", 2000))
    end)

    it("may be closed twice, and raises once it is closed", function()
      put("src", "x")
      local copier = assert(disk.copy(path "src", path "dst"))
      copier:close()
      copier:close()
      assert.is_false(exists "dst")
      assert.has_error(function() copier:step(1) end, "this copier is closed")
      assert.equal("fcvm.disk.copier (closed)", tostring(copier))
    end)

    it("removes an unfinished copy when its scope ends by an error", function()
      put("src", "x")
      assert.has_error(function()
        local _copier <close> = assert(disk.copy(path "src", path "dst"))
        assert.is_true(exists "dst")
        error("boom", 0)
      end, "boom")
      assert.is_false(exists "dst")
    end)

    it("removes an unfinished copy when it is collected", function()
      put("src", ("x"):rep(10))
      do
        local copier = assert(disk.copy(path "src", path "dst"))
        copier:step(1)
      end
      collectgarbage()
      collectgarbage()
      assert.is_false(exists "dst")
    end)

    it("is no copier where something else is given", function()
      put("src", "x")
      local copier <close> = assert(disk.copy(path "src", path "dst"))
      assert.has_error(function() copier.step(io.stdout, 1) end)
      assert.has_error(function() copier.close {} end)
    end)
  end)
end)
