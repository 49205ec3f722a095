#include "espalier/config/config.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "espalier/base/error.h"
#include "espalier/config/describe.h"

namespace espalier {
namespace {

OptionTable sample_table() {
  OptionTable table;
  table.add({"run.name", OptionType::text, "first run", "name of the run"});
  table.add({"run.dir", OptionType::text, "", "folder of the run"});
  table.add({"train.lr", OptionType::real, "0.05", "learning rate", "", 0, 10});
  table.add({"train.epochs", OptionType::integer, "1", "passes", "", 1, 100});
  table.add({"train.nesterov", OptionType::boolean, "false", "form of momentum"});
  table.add_choice("train.schedule", "constant", "shape", {"constant", "step"});
  table.add({"run.wait", OptionType::real, "60", "longest wait", "s", 0});
  table.add({"levels.values", OptionType::real_list, "1, 0.5", "sizes", "", 0, 1});
  table.add({"model.width", OptionType::integer, "", "width of the model"});
  table.add({"device.*.memory_mb", OptionType::real, "1024", "memory of the class", "MB", 1});
  table.add({"device.*.kind", OptionType::text, "phone", "its kind"});
  return table;
}

Config sample() { return Config(sample_table()); }

// The message with which `act` is refused; empty, and a failure, if it is accepted.
template <class Act>
std::string refusal(Act act) {
  try {
    act();
  } catch (const InputError& error) {
    return error.what();
  }
  ADD_FAILURE() << "not refused";
  return "";
}

std::string refused_text(const std::string& ini) {
  return refusal([&] { sample().read_text(ini, "x.ini"); });
}

std::string refused_value(const std::string& key, const std::string& value) {
  return refusal([&] { sample().set(key, value, "the command line"); });
}

TEST(ConfigRead, DefaultThenComputedDefaultThenFileThenCommandLine) {
  Config config = sample();
  EXPECT_EQ(config.real("train.lr"), 0.05);
  config.set_default("train.lr", "0.1");
  EXPECT_EQ(config.real("train.lr"), 0.1);
  EXPECT_FALSE(config.given("train.lr"));
  config.read_text("[train]\nlr = 0.2\n", "x.ini");
  EXPECT_EQ(config.real("train.lr"), 0.2);
  EXPECT_TRUE(config.given("train.lr"));
  config.set("train.lr", "0.3", "the command line");
  EXPECT_EQ(config.real("train.lr"), 0.3);
  config.set_default("train.lr", "0.4");
  EXPECT_EQ(config.real("train.lr"), 0.3);
}

TEST(ConfigRead, EveryTypeCommentsBlanksAndLineEnds) {
  Config config = sample();
  config.read_text(
      "# a comment\r\n"
      "\r\n"
      "[run]  # the run\r\n"
      "name =  a#b = c  # trailing\r\n"
      "dir=\r\n"
      "  # indented\n"
      "[ train ]\n"
      "lr=1e-3\n"
      "\tepochs = +3\t# three\n"
      "nesterov = on\n"
      "schedule = step\n"
      "[run]\n"
      "wait = 5\n"
      "[levels]\n"
      "values = 0.25,0.5 , 1\n"
      "[device.tx2-a]\n"
      "memory_mb = 4096",
      "x.ini");
  EXPECT_EQ(config.text("run.name"), "a#b = c");
  EXPECT_EQ(config.text("run.dir"), "");
  EXPECT_EQ(config.real("train.lr"), 1e-3);
  EXPECT_EQ(config.integer("train.epochs"), 3);
  EXPECT_TRUE(config.boolean("train.nesterov"));
  EXPECT_EQ(config.text("train.schedule"), "step");
  EXPECT_EQ(config.real("run.wait"), 5);
  EXPECT_EQ(config.reals("levels.values"), (std::vector<double>{0.25, 0.5, 1}));
  EXPECT_EQ(config.real("device.tx2-a.memory_mb"), 4096);
}

TEST(ConfigRead, BooleansHaveEightSpellings) {
  Config config = sample();
  for (const auto& [text, value] : std::map<std::string, bool>{{"true", true},
                                                               {"yes", true},
                                                               {"on", true},
                                                               {"1", true},
                                                               {"false", false},
                                                               {"no", false},
                                                               {"off", false},
                                                               {"0", false}}) {
    config.set("train.nesterov", text, "the command line");
    EXPECT_EQ(config.boolean("train.nesterov"), value) << text;
  }
}

TEST(ConfigRead, AListMayBeEmptyAndRangesAreInclusive) {
  Config config = sample();
  config.set("levels.values", "", "the command line");
  EXPECT_TRUE(config.reals("levels.values").empty());
  for (const char* value : {"0", "10"})
    EXPECT_NO_THROW(config.set("train.lr", value, "the command line"));
  for (const char* value : {"1", "100"})
    EXPECT_NO_THROW(config.set("train.epochs", value, "the command line"));
  EXPECT_NO_THROW(config.set("levels.values", "0, 1", "the command line"));
}

TEST(ConfigRead, NamesBelowAPrefixAreTheGivenOnes) {
  Config config = sample();
  EXPECT_TRUE(config.names_below("device").empty());
  config.read_text("[device.tx2]\nkind = board\nmemory_mb = 2\n[device.nano]\nkind = board\n",
                   "x.ini");
  EXPECT_EQ(config.names_below("device"), (std::vector<std::string>{"nano", "tx2"}));
  EXPECT_EQ(config.text("device.tx2.kind"), "board");
  EXPECT_EQ(config.real("device.nano.memory_mb"), 1024);
}

TEST(ConfigRefuses, UnknownKeysWithFileLineAndTheNearestKey) {
  EXPECT_EQ(refused_text("[train]\n\nlrr = 1\n"),
            "unknown option 'train.lrr' in x.ini line 3; did you mean 'train.lr'?");
  EXPECT_EQ(refused_text("lr = 1\n"),
            "unknown option 'lr' in x.ini line 1; did you mean 'train.lr'?");
  EXPECT_EQ(refused_text("[training]\nepochs = 1\n"),
            "unknown option 'training.epochs' in x.ini line 2; did you mean 'train.epochs'?");
  EXPECT_EQ(
      refused_text("[device.tx2]\nmemory = 1\n"),
      "unknown option 'device.tx2.memory' in x.ini line 2; did you mean 'device.tx2.memory_mb'?");
  EXPECT_EQ(
      refused_text("[nothing]\nlike.this.at = all\n"),
      "unknown option 'nothing.like.this.at' in x.ini line 2; `espalier list options` shows all");
}

TEST(ConfigRefuses, UnknownKeysOfAnyLengthAtOnce) {
  // By the square of the length each would take minutes. The name in the middle is any text, so
  // that the nearest option is as long as the key.
  const std::string name(400'000, 'n');
  EXPECT_EQ(refused_text("[devise." + name + "]\nmemory = 1\n"),
            "unknown option 'devise." + name + ".memory' in x.ini line 2; did you mean 'device." +
                name + ".memory_mb'?");
  EXPECT_EQ(
      refused_text("[" + name + "]\nunknown = 1\n"),
      "unknown option '" + name + ".unknown' in x.ini line 2; `espalier list options` shows all");
}

TEST(ConfigRefuses, TheNearestKeyIsThatOfTheFewestEdits) {
  // train.lr and train.epochs, each with letters that are replaced, lost and added.
  EXPECT_EQ(refused_text("[train]\nepxhs = 1\n"),
            "unknown option 'train.epxhs' in x.ini line 2; did you mean 'train.epochs'?");
  EXPECT_EQ(refused_text("[trrain]\nlrs = 1\n"),
            "unknown option 'trrain.lrs' in x.ini line 2; did you mean 'train.lr'?");
  EXPECT_EQ(refused_text("[rain]\nepoochss = 1\n"),
            "unknown option 'rain.epoochss' in x.ini line 2; did you mean 'train.epochs'?");
}

TEST(ConfigRefuses, AbbreviationsAndOtherCase) {
  EXPECT_EQ(refused_value("train.epoch", "1"),
            "unknown option 'train.epoch' in the command line; did you mean 'train.epochs'?");
  refused_value("Train.epochs", "1");
  refused_value("device..memory_mb", "1");
  refused_value("device.*.memory_mb", "1");
  refused_value("device.a.b.memory_mb", "1");
}

TEST(ConfigRefuses, KeysGivenTwiceInOneFile) {
  EXPECT_EQ(refused_text("[train]\nlr = 1\nepochs = 2\n[train]\nlr = 1\n"),
            "train.lr in x.ini line 5 was already given in line 2; keep one of the two");
}

TEST(ConfigRefuses, LinesThatAreNeitherSectionNorValue) {
  EXPECT_EQ(refused_text("[train\n"), "'[train' in x.ini line 1 is not a section; write [name]");
  EXPECT_EQ(refused_text("[]\n"), "'[]' in x.ini line 1 is not a section; write [name]");
  EXPECT_EQ(refused_text("[train]\nlr 1\n"),
            "'lr 1' in x.ini line 2 has no '='; write key = value");
}

TEST(ConfigRefuses, ValuesOfTheWrongType) {
  EXPECT_EQ(refused_text("[train]\nepochs = 1.5\n"),
            "train.epochs = '1.5' in x.ini line 2 cannot be used; write an integer from 1 to 100");
  for (const char* value : {"", "x", "3x", "0x3", "1e1", "1 2", "+-1", "99999999999999999999"})
    refused_value("train.epochs", value);
  EXPECT_EQ(refused_value("train.lr", "fast"),
            "train.lr = 'fast' in the command line cannot be used; write a number from 0 to 10");
  for (const char* value : {"", "nan", "inf", "1e999", "1,5", "0.1 0.2"})
    refused_value("train.lr", value);
  EXPECT_EQ(refused_value("train.nesterov", "True"),
            "train.nesterov = 'True' in the command line cannot be used; write true or false");
  EXPECT_EQ(
      refused_value("train.schedule", "cosine"),
      "train.schedule = 'cosine' in the command line cannot be used; write one of: constant, step");
  EXPECT_EQ(refused_value("levels.values", "1,,0.5"),
            "levels.values = '1,,0.5' in the command line cannot be used; write numbers from 0 to "
            "1, separated "
            "by commas");
  for (const char* value : {",", "1,", "1;2", "nan"}) refused_value("levels.values", value);
}

TEST(ConfigRefuses, ValuesOutOfRangeWithTheUnit) {
  EXPECT_EQ(
      refused_value("run.wait", "-1"),
      "run.wait = '-1' in the command line cannot be used; write a number of at least 0 (in s)");
  for (const char* value : {"0", "101", "-1"}) refused_value("train.epochs", value);
  for (const char* value : {"-1e-300", "10.0001"}) refused_value("train.lr", value);
  refused_value("levels.values", "0.5, 1.5");
}

TEST(ConfigRefuses, TextThatAnInputFileCouldNotHold) {
  for (const char* value : {"#a", "a #b", "a\nb", "a\t#b"})
    EXPECT_NE(refused_value("run.name", value).find("cannot be written into an input file"),
              std::string::npos);
}

TEST(ConfigRefuses, FilesThatCannotBeRead) {
  const std::filesystem::path folder = testing::TempDir();
  const std::filesystem::path absent = folder / "espalier-config-absent.ini";
  const std::string text = refusal([&] { sample().read_file(absent); });
  EXPECT_NE(text.find(absent.string()), std::string::npos) << text;
  EXPECT_NE(text.find("No such file"), std::string::npos) << text;
  EXPECT_NE(refusal([&] { sample().read_file(folder); }).find("folder"), std::string::npos);
}

TEST(ConfigRefuses, ReadingWhatHasNoDefaultUntilItIsGiven) {
  Config config = sample();
  EXPECT_EQ(refusal([&] { config.integer("model.width"); }),
            "model.width has no default and is needed; write it in the input file or give "
            "--model.width=...");
  config.set("model.width", "8", "the command line");
  EXPECT_EQ(config.integer("model.width"), 8);
}

TEST(ConfigRefuses, AFailedReadNamesTheFile) {
  const std::filesystem::path path =
      std::filesystem::path(testing::TempDir()) / "espalier-config-bad.ini";
  std::ofstream(path) << "[train]\nlr = 0.5\nepochs = 0\n";
  const std::string text = refusal([&] { sample().read_file(path); });
  std::filesystem::remove(path);
  EXPECT_NE(text.find(path.string() + " line 3"), std::string::npos) << text;
}

TEST(ConfigMisuse, IsAnInternalError) {
  const auto internal = [](auto act) {
    try {
      act();
    } catch (const Error& error) {
      return error.status() == Status::internal;
    }
    return false;
  };
  EXPECT_TRUE(internal([] { sample().real("train.absent"); }));
  EXPECT_TRUE(internal([] { sample().integer("train.lr"); }));
  EXPECT_TRUE(internal([] { sample().set_default("train.absent", "1"); }));
  EXPECT_TRUE(internal([] {
    sample_table().add({"train.lr", OptionType::real, "0.1", "another"});
  }));
  EXPECT_TRUE(internal([] {
    sample_table().add({"train.new", OptionType::integer, "0", "", "", 1});
  }));
}

TEST(ConfigUnread, AreTheGivenKeysThatNothingRead) {
  Config config = sample();
  config.read_text("[train]\nlr = 1\nepochs = 2\n[device.tx2]\nmemory_mb = 3\n", "x.ini");
  EXPECT_EQ(config.unread(),
            (std::vector<std::string>{"device.tx2.memory_mb", "train.epochs", "train.lr"}));
  config.real("train.lr");
  config.given("train.epochs");
  config.boolean("train.nesterov");
  config.resolved();
  EXPECT_EQ(config.unread(), (std::vector<std::string>{"device.tx2.memory_mb", "train.epochs"}));
}

TEST(ConfigUnread, AreNotThoseThatSayWhatHoldsAnyway) {
  Config config = sample();
  config.read_text(config.resolved(), "config.ini");
  EXPECT_EQ(config.unread(), std::vector<std::string>());
  config.set_default("train.epochs", "7");
  config.set("train.epochs", "007", "the test");
  EXPECT_EQ(config.unread(), std::vector<std::string>());
  config.set("train.epochs", "8", "the test");
  EXPECT_EQ(config.unread(), std::vector<std::string>{"train.epochs"});
}

TEST(ConfigResolved, ShowsEveryOptionBySectionInOrderOfDeclaration) {
  Config config = sample();
  config.read_text("[train]\nnesterov = yes\nlr = 1e-1\n[device.tx2]\nkind = b\n", "x.ini");
  config.set_default("train.epochs", "7");
  EXPECT_EQ(config.resolved(),
            "[run]\nname = first run\ndir =\nwait = 60\n\n"
            "[train]\nlr = 0.1\nepochs = 7\nnesterov = true\nschedule = constant\n\n"
            "[levels]\nvalues = 1, 0.5\n\n"
            "[model]\n# width =\n\n"
            "[device.tx2]\nkind = b\n");
}

TEST(ConfigResolved, ReadsBackToEqualValues) {
  Config config = sample();
  config.read_text(
      "[run]\nname = a#b = [c]\n[train]\nlr = 0.1000000000000000055\n[levels]\nvalues =\n"
      "[model]\nwidth = 9\n[device.a-b]\nmemory_mb = 3\n[device.a]\nkind = x\nmemory_mb = 1e10\n",
      "x.ini");
  config.set("run.wait", "1e-300", "the command line");
  config.set_default("train.epochs", "7");
  Config again = sample();
  again.read_text(config.resolved(), "resolved");
  EXPECT_EQ(again.resolved(), config.resolved());
  EXPECT_EQ(again.names_below("device"), config.names_below("device"));
  for (const char* key : {"run.name", "run.dir", "train.schedule", "device.a.kind"})
    EXPECT_EQ(again.text(key), config.text(key)) << key;
  for (const char* key : {"train.lr", "run.wait", "device.a.memory_mb", "device.a-b.memory_mb"})
    EXPECT_EQ(again.real(key), config.real(key)) << key;
  for (const char* key : {"train.epochs", "model.width"})
    EXPECT_EQ(again.integer(key), config.integer(key)) << key;
  EXPECT_EQ(again.reals("levels.values"), config.reals("levels.values"));
  EXPECT_EQ(again.boolean("train.nesterov"), config.boolean("train.nesterov"));
}

TEST(ConfigDescribe, ListsOneAlignedLinePerOption) {
  OptionTable table;
  table.add({"run.wait", OptionType::real, "60", "longest wait", "s", 0});
  table.add({"train.epochs", OptionType::integer, "1", "passes", "", 1, 100});
  table.add({"run.dir", OptionType::text, "", "folder"});
  table.add_choice("run.order", "up", "order", {"up", "down"});
  EXPECT_EQ(list_options(table),
            "run.wait      60 s    longest wait\n"
            "train.epochs  1       passes\n"
            "run.dir       (none)  folder\n"
            "run.order     up      order (up | down)\n");
}

TEST(ConfigDescribe, ExplainsAnOptionAsDeclaredOrAsUsed) {
  const OptionTable table = sample_table();
  const std::string memory =
      "device.*.memory_mb\n  memory of the class\n  type:    real\n  unit:    MB\n  default: 1024 "
      "MB\n"
      "  accepts: a number of at least 1\n";
  EXPECT_EQ(explain_option(table, "device.*.memory_mb"), memory);
  EXPECT_EQ(explain_option(table, "device.tx2.memory_mb"), memory);
  EXPECT_EQ(explain_option(table, "train.schedule"),
            "train.schedule\n  shape\n  type:    choice\n  default: constant\n"
            "  accepts: one of: constant, step\n");
  EXPECT_EQ(refusal([&] { explain_option(table, "train.lrr"); }),
            "unknown option 'train.lrr' in explain; did you mean 'train.lr'?");
}

TEST(ConfigDescribe, ExplainsWhichOptionsAResumeMayChange) {
  OptionTable table;
  table.add({"run.rounds", OptionType::integer, "3", "rounds", "", 1, 9, OnResume::may_change});
  table.add({"data.dir", OptionType::text, "", "folder", "", {}, {}, OnResume::place});
  table.add({"train.lr", OptionType::real, "1", "rate"});
  EXPECT_EQ(explain_option(table, "run.rounds"),
            "run.rounds\n  rounds\n  type:    integer\n  default: 3\n"
            "  accepts: an integer from 1 to 9\n"
            "  resume:  may be changed when a run is resumed\n");
  EXPECT_EQ(explain_option(table, "data.dir"),
            "data.dir\n  folder\n  type:    text\n  default: (none)\n  accepts: text\n"
            "  resume:  may be changed when a run is resumed, and has no effect on its values\n");
  EXPECT_EQ(explain_option(table, "train.lr"),
            "train.lr\n  rate\n  type:    real\n  default: 1\n  accepts: a number\n");
}

TEST(OptionTableTest, FixesEveryOptionOnResumeUnlessItsDeclarationSaysMore) {
  OptionTable table = sample_table();
  table.add({"run.rounds", OptionType::integer, "3", "rounds", "", 1, 9, OnResume::may_change});
  table.add({"device.*.trace", OptionType::text, "", "a file", "", {}, {}, OnResume::place});
  EXPECT_EQ(table.find("train.lr")->on_resume, OnResume::fixed);
  EXPECT_EQ(table.find("train.schedule")->on_resume, OnResume::fixed);
  EXPECT_EQ(table.find("run.rounds")->on_resume, OnResume::may_change);
  EXPECT_EQ(table.find("device.tx2.trace")->on_resume, OnResume::place);
  Option other = *table.find("run.rounds");
  other.on_resume = OnResume::fixed;
  EXPECT_THROW(table.add(other), Error);
}

TEST(OptionTableTest, AcceptsAnEqualDeclarationTwice) {
  OptionTable table = sample_table();
  const std::size_t count = table.options().size();
  table.add(Option(table.options().front()));
  EXPECT_EQ(table.options().size(), count);
}

}  // namespace
}  // namespace espalier
